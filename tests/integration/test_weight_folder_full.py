"""A shared memory that is too small for the weights, as in many containers: one sentence, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PUBLISH = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from covt_rollout.rollout_errors import WeightPushError
from covt_rollout.weights.weight_files import ServedNames, write_weights
from covt_rollout.weights.weight_folder import check_room, scratch_folder

checkpoint, small = map(Path, sys.argv[1:])
save_file({"model.w": torch.zeros(4)}, checkpoint / "model.safetensors")
for attempt in (
    lambda: check_room(small, 3 << 20),
    lambda: write(torch.zeros(1 << 21)),
):
    def write(tensor):
        with scratch_folder(small) as folder:
            write_weights([("model.language_model.w", tensor)], folder, ServedNames.read(checkpoint))
    try:
        attempt()
    except WeightPushError as error:
        print(error, "->", error.remedy)
print([path.name for path in small.iterdir()])
"""


def test_a_shared_memory_of_4_mib_is_refused_and_a_write_into_it_fails_clearly(tmp_path: Path) -> None:
    small, checkpoint = tmp_path / "small", tmp_path / "checkpoint"
    small.mkdir()
    checkpoint.mkdir()
    script = tmp_path / "publish.py"
    script.write_text(PUBLISH)
    # A file system of its own in a namespace of its own, which ends with the process.
    inside = f'mount -t tmpfs -o size=4m none "{small}" && "{sys.executable}" "{script}" "{checkpoint}" "{small}"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", inside]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"this machine allows no mount: {done.stderr.strip()}")
    refused, failed, left = done.stdout.splitlines()
    assert "0.00 GiB are free; 2 copies of the model need 0.01 GiB" in refused
    assert "No space left on device" in failed
    assert all("rollout.weight_folder" in line and "--shm-size" in line for line in (refused, failed))
    assert left == "[]"
