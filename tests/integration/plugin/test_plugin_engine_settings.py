"""What the plugin refuses when a server starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import vllm

from covt_model.latent_config import LatentConfig
from covt_model.model_errors import ModelError
from covt_rollout.vllm_plugin.engine_settings import EngineSettings, check_served, check_supported

LATENT = {"start_id": 5, "pad_id": 6, "end_id": 7, "size": 3}


def engine(**changed: Any) -> Any:
    values: dict[str, Any] = {"pipeline": 1, "speculative": None, "asynchronous": False, "v2": False, "pictures": True}
    values |= {"additional": None} | changed
    hf_config = SimpleNamespace(covt_latent=LATENT, image_token_id=8)
    return SimpleNamespace(
        parallel_config=SimpleNamespace(pipeline_parallel_size=values["pipeline"]),
        speculative_config=values["speculative"],
        scheduler_config=SimpleNamespace(async_scheduling=values["asynchronous"]),
        use_v2_model_runner=values["v2"],
        additional_config=values["additional"],
        model_config=SimpleNamespace(
            supports_multimodal_inputs=values["pictures"],
            hf_config=hf_config,
            model="m",
            get_hidden_size=lambda: 4,
        ),
    )


def test_a_supported_engine_starts() -> None:
    check_supported(engine())
    check_supported(engine(v2=True, asynchronous=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pipeline": 2}, "pipeline parallelism"),
        ({"speculative": object()}, "speculative decoding"),
        ({"asynchronous": True}, "asynchronous scheduling"),
        ({"pictures": False}, "text-only serving"),
    ],
)
def test_unsupported_engines_are_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        check_supported(engine(**changed))
    assert error.value.remedy


def test_an_untested_version_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", "0.33.1")
    with pytest.raises(ModelError, match=r"0\.33\.1"):
        check_supported(engine())
    monkeypatch.setattr(vllm, "__version__", "0.32.0+cpu")
    check_supported(engine())


def test_settings_come_from_the_checkpoints_config() -> None:
    settings = EngineSettings.read(engine())
    assert (settings.latent.size, settings.hidden, settings.image_id, settings.max_pads) == (3, 4, 8, 0)


def test_the_v2_runner_has_room_for_so_many_spans() -> None:
    assert EngineSettings.read(engine(v2=True)).max_pads == 32 * 3
    assert EngineSettings.read(engine(v2=True, additional={"covt_latent_spans": 5})).max_pads == 15


def test_a_checkpoint_without_latents_is_refused() -> None:
    config = engine()
    del config.model_config.hf_config.covt_latent
    with pytest.raises(ModelError, match="no latent tokens"):
        EngineSettings.read(config)


@pytest.mark.parametrize(("name", "value"), [("head", "experts"), ("normalize", "layer")])
def test_a_feedback_rule_that_the_server_cannot_follow_is_refused(name: str, value: str) -> None:
    latent = LatentConfig.from_dict(LATENT)
    check_served(latent)
    # What a later release may write, and this one would have to approximate.
    object.__setattr__(latent, name, value)
    with pytest.raises(ModelError, match=f"can't follow covt_latent.{name} = {value!r}") as error:
        check_served(latent)
    assert error.value.remedy
