"""Jobs of worker processes in which one rank comes too late."""

import time
from typing import Any

from covt_runtime.launch.distributed import Worker


def meet(payload: dict[str, Any], worker: Worker) -> float:
    """All ranks meet; rank 1 comes after `late` seconds. Returns how long the job took."""
    begun = time.monotonic()
    if worker.rank == 1:
        time.sleep(payload["late"])
    worker.barrier()
    return time.monotonic() - begun
