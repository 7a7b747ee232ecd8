"""Blocking calls of an asynchronous client: leaving the client ends those that other threads wait for."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

from covt_model.latent_config import LatentConfig
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.rollout_client import RolloutClient

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)
SOON = 5.0


def test_leaving_the_client_ends_a_call_that_another_thread_waits_for() -> None:
    raised: list[BaseException] = []
    cleaned = threading.Event()
    started = threading.Event()

    async def hang() -> None:
        started.set()
        try:
            await asyncio.sleep(600)
        finally:
            cleaned.set()

    with BlockingClient(RolloutClient("http://127.0.0.1:1", latent=LATENT, decode=str)) as blocking:

        def wait() -> None:
            try:
                blocking.run(hang())
            except CancelledError as error:
                raised.append(error)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        assert started.wait(SOON)
    waiting.join(SOON)
    assert not waiting.is_alive()
    assert len(raised) == 1
    assert cleaned.is_set()
