"""Which version of weights a worker says it has when a load goes wrong."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from covt_model.model_errors import ModelError
from covt_rollout.vllm_plugin import reload_weights as weights


@pytest.fixture
def worker() -> Any:
    """Without a device and a model; its version is 4."""
    with warnings.catch_warnings():
        # Of torch.jit, on importing vLLM's worker.
        warnings.simplefilter("ignore", DeprecationWarning)
        from covt_rollout.vllm_plugin.latent_worker import LatentWorker
    worker = object.__new__(LatentWorker)
    worker.weight_version = 4
    worker.model_runner = object()
    return worker


def raising(error: Exception) -> Any:
    def call(*_: Any) -> None:
        raise error

    return call


def test_weights_that_are_refused_leave_the_old_version(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "check", raising(ModelError("other shapes", "push all")))
    with pytest.raises(ModelError):
        worker.covt_load_weights("folder", 5)
    assert worker.weight_version == 4


def test_a_load_that_breaks_off_leaves_no_version(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tensors are new by then, so the old version must not be said to be served."""
    monkeypatch.setattr(weights, "check", lambda *_: None)
    monkeypatch.setattr(weights, "load", raising(OSError("input/output error")))
    with pytest.raises(OSError, match="input/output"):
        worker.covt_load_weights("folder", 5)
    assert worker.weight_version == -1
    monkeypatch.setattr(weights, "load", lambda *_: {"seconds": 0.1})
    assert worker.covt_load_weights("folder", 6) == {"version": 6, "seconds": 0.1}
    assert worker.weight_version == 6
