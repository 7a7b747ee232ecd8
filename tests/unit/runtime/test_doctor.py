"""The doctor sees what is wrong and says what to do."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from covt_runtime import doctor


def test_every_fault_has_a_remedy_and_names_are_unique() -> None:
    checks = doctor.run_checks()
    assert len({check.name for check in checks}) == len(checks) == 16
    assert all(check.remedy for check in checks if check.status != "pass")


def test_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert doctor.check_package("torch").status == "fail"
    assert doctor.check_vllm().status == "fail"
    assert "uv sync" in doctor.check_vllm().remedy


def test_another_version_than_tested_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "9.9.9")
    check = doctor.check_package("torch")
    assert (check.status, "9.9.9" in check.detail) == ("warn", True)


def test_too_little_memory_and_disk_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_available_memory", lambda: 3 * doctor.GIB)
    assert doctor.check_memory().status == "fail"
    monkeypatch.setattr(doctor, "_available_memory", lambda: 6 * doctor.GIB)
    assert doctor.check_memory().status == "warn"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": doctor.GIB})())
    assert doctor.check_disk(tmp_path).status == "fail"


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    assert doctor.check_writable(tmp_path / "absent").status == "fail"


def test_the_checks_import_nothing_heavy() -> None:
    code = (
        "import sys; from covt_runtime.doctor import run_checks; run_checks();"
        "print([name for name in ('torch', 'deepspeed', 'transformers', 'vllm', 'wandb') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("value", "status"), [(None, "pass"), ("1", "pass"), ("many", "fail"), ("0", "fail"), ("100000", "warn")]
)
def test_more_threads_than_cores_are_a_warning(monkeypatch: pytest.MonkeyPatch, value: str | None, status: str) -> None:
    if value is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert doctor.check_threads().status == status


def test_flash_attention_is_asked_for_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: False)
    monkeypatch.setattr(doctor, "visible_gpus", lambda: 0)
    assert doctor.check_flash_attention().status == "pass"
    monkeypatch.setattr(doctor, "visible_gpus", lambda: 1)
    assert doctor.check_flash_attention().status == "warn"


@pytest.mark.parametrize(
    ("gib", "status", "size"), [(0.0625, "warn", "0.0"), (0.25, "warn", "0.1"), (32, "pass", "8.6")]
)
def test_shared_memory_is_judged_by_the_models_that_fit_twice(
    monkeypatch: pytest.MonkeyPatch, gib: float, status: str, size: str
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": gib * doctor.GIB})())
    check = doctor.check_shared_memory()
    assert (check.status, f"up to {size} billion parameters" in check.detail) == (status, True)
    assert bool(check.remedy) == (status == "warn")
    assert not check.remedy or "rollout.weight_folder" in check.remedy
