"""Requests with latents on the real server: bad ones are HTTP 400, the engine lives, nothing is left behind."""

from __future__ import annotations

import base64
import http.client
import json
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
from latent_oracle import data_url, png
from server_tools import TOLERANCE, RunningServer, both_runners, generate, latents_of, prompt

from covt_model.latent_config import LatentConfig
from covt_rewards.latents import find_whole_spans
from covt_rollout.vllm_plugin import cache_salt, latent_args

H = 64
GENERATE = "/inference/v1/generate"


pytestmark = both_runners


@pytest.fixture(scope="module")
def latent(latent_server: RunningServer) -> LatentConfig:
    return LatentConfig.read(latent_server.checkpoint)


def bad_requests(latent: LatentConfig) -> dict[str, tuple[dict[str, Any], str]]:
    """Name → (request, what the answer says)."""
    pad, one = latent.pad_id, np.ones((1, H), dtype=np.float32)
    shape = {"latent_shape": [1, H]}
    return {
        "unknown mode": (with_extra([1], {"latent_mode": "shuffle"}), "latent_mode is 'shuffle'"),
        "unknown field": (with_extra([1], {"latent_modes": "keep"}), "unknown fields latent_modes"),
        "pads without latents": (with_extra([latent.start_id, pad], None), "1 latent pads and 0 latents"),
        "too many pads": (
            with_extra([pad] * (latent.size + 1), latent_args("zeros"), cache_salt=cache_salt("zeros")),
            "latent pads in a row",
        ),
        "wrong number": (with_extra([pad, pad], latent_args("keep", one)), "2 latent pads and 1 latents"),
        "wrong width": (with_extra([pad], latent_args("keep", one[:, :5])), "5 dimensions"),
        "not finite": (
            with_extra([pad], {"latent_data": "AADAfw==", "latent_shape": [1, 1]}),
            "not finite",
        ),
        "wrong type": (with_extra([pad], {"latent_data": [1.0], "latent_shape": [1, 1]}), "latent_data is list"),
        "no salt": (with_extra([1], latent_args("zeros")), "needs a cache_salt"),
        "half precision": (
            with_extra([pad], {"latent_data": base64.b64encode(np.ones(H, "<f2").tobytes()).decode()} | shape),
            "latent_data has 128 bytes, latent_shape [1, 64] needs 256",
        ),
        "not base64": (with_extra([pad], {"latent_data": "-"} | shape), "not base64"),
        "shape of three": (with_extra([pad], {"latent_data": "", "latent_shape": [1, 1, 64]}), "latent_shape is"),
        "given without data": (with_extra([1], {"latent_mode": "given"}), "has no latent_data"),
        "key too long": (with_extra([1], {"latent_key": "k" * 201}), "latent_key is"),
        "past the context": (with_extra([1] * 2000, None), "max"),
        "negative id": (with_extra([-1], None), "negative"),
        "id past the vocabulary": (with_extra([10**6], None), "vocabulary"),
    }


def with_extra(token_ids: list[int], extra: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    return {"token_ids": token_ids, "sampling_params": {"max_tokens": 2, "extra_args": extra}} | more


def test_bad_requests_are_http_400_and_the_engine_lives(latent_server: RunningServer, latent: LatentConfig) -> None:
    for name, (body, message) in bad_requests(latent).items():
        status, answer = latent_server.post("/inference/v1/generate", body)
        assert status == 400, (name, answer)
        assert message in answer["error"]["message"], (name, answer)
    assert generate(latent_server, [1, 2], max_tokens=2)[0].finish_reason == "length"


def test_expanded_image_pads_and_too_many_pictures_are_refused(latent_server: RunningServer) -> None:
    image = data_url(png(56, 56, 0))
    ids = prompt(latent_server.checkpoint, "hi", pictures=1)
    at = next(t for t in range(len(ids)) if ids[t : t + 1] == [image_pad(latent_server)])
    expanded = {"token_ids": ids[:at] + ids[at : at + 1] * 4 + ids[at + 1 :]}
    many = {"token_ids": prompt(latent_server.checkpoint, "hi", pictures=9)}
    for body, images in ((expanded, 1), (many, 9)):
        parts = [{"type": "image_url", "url": image}] * images
        status, answer = latent_server.post(
            "/inference/v1/generate", body | {"content_parts": parts, "sampling_params": {"max_tokens": 2}}
        )
        assert status == 400, answer


def image_pad(server: RunningServer) -> int:
    return json.loads((server.checkpoint / "config.json").read_text())["image_token_id"]


def test_latents_are_read_once_and_unknown_keys_are_none(latent_server: RunningServer, latent: LatentConfig) -> None:
    generate(latent_server, [1, latent.start_id], extra=latent_args(key="once"), max_tokens=latent.size + 1)
    assert latents_of(latent_server, "once")[0].shape == (latent.size, H)
    assert latent_server.call("covt_take_latents", ["once", "never"]) == {"once": None, "never": None}


def test_a_completion_without_spans_has_no_rows(latent_server: RunningServer, latent: LatentConfig) -> None:
    closed = {latent.start_id: -100.0}
    generate(latent_server, [1, 2], bias=closed, extra=latent_args(key="empty"), max_tokens=3)
    (latents,) = latents_of(latent_server, "empty")
    assert latents.shape == (0, H)


def test_an_openai_chat_with_a_picture_decodes_latents(latent_server: RunningServer, latent: LatentConfig) -> None:
    content = [
        {"type": "image_url", "image_url": {"url": data_url(png(112, 112, 0))}},
        {"type": "text", "text": "Which cell?"},
    ]
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "logit_bias": {str(latent.start_id): 100.0},
        "vllm_xargs": {"latent_key": "chat"},
    }
    status, answer = latent_server.post("/v1/chat/completions", body)
    assert status == 200, answer
    ids = answer["choices"][0]["token_ids"]
    assert ids[: latent.size + 2] == [latent.start_id, *[latent.pad_id] * latent.size, latent.end_id]
    (latents,) = latents_of(latent_server, "chat")
    assert len(latents) == ids.count(latent.pad_id)


def test_an_openai_client_sees_the_spans_and_sends_them_back_as_history(
    latent_server: RunningServer, latent: LatentConfig
) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(png(112, 112, 0))}}
    messages: list[Any] = [{"role": "user", "content": [picture, {"type": "text", "text": "Which cell?"}]}]
    span = "<|latent_start|>" + "<|latent_pad|>" * latent.size + "<|latent_end|>"
    with openai.OpenAI(base_url=latent_server.url + "/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        how: dict[str, Any] = {"model": model, "max_tokens": 12, "temperature": 0}
        how |= {"logit_bias": {str(latent.start_id): 100}}
        answer = client.chat.completions.create(messages=messages, **how)
        text = answer.choices[0].message.content
        assert text is not None and text.startswith(span)
        events = client.chat.completions.create(messages=messages, stream=True, **how)
        assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == text
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "Sure?"}]
        again = client.chat.completions.create(messages=messages, **how)
        assert again.usage is not None and answer.usage is not None
        assert again.usage.prompt_tokens > answer.usage.prompt_tokens
        with pytest.raises(openai.BadRequestError, match="latent_mode is 'shuffle'"):
            bad = {"vllm_xargs": {"latent_mode": "shuffle"}}
            client.chat.completions.create(messages=messages, extra_body=bad, **how)


def test_an_openai_client_asks_for_modes_without_salts(latent_server: RunningServer, latent: LatentConfig) -> None:
    content = [{"type": "image_url", "image_url": {"url": data_url(png(112, 112, 5))}}, {"type": "text", "text": "Go?"}]
    messages: list[Any] = [{"role": "user", "content": content}]

    def ask(salt: str | None, mode: str | None) -> list[float]:
        extra = ({"cache_salt": salt} if salt else {}) | ({"vllm_xargs": {"latent_mode": mode}} if mode else {})
        with openai.OpenAI(base_url=latent_server.url + "/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(
                model=str(latent_server.checkpoint),
                messages=messages,
                max_tokens=40,
                temperature=0,
                logprobs=True,
                logit_bias={str(latent.start_id): 4},
                extra_body=extra | {"ignore_eos": True},
            )
        found = answer.choices[0].logprobs
        assert found is not None and found.content is not None
        return [one.logprob for one in found.content]

    kept = ask(None, None)
    # With the right salt, with none, and with one of the client's own; kept latents may not come from another's cache.
    zeroed = [ask(salt, "zeros") for salt in (cache_salt("zeros"), None, "mine", None)]
    assert all(np.allclose(one, zeroed[0], atol=1e-4) for one in zeroed[1:])
    assert not np.allclose(kept, zeroed[0], atol=1e-4)
    assert np.allclose(ask(None, None), kept, atol=1e-4)


# What a client with a bug may put in any place of a request.
ODD = (None, True, -1, 0, 1e30, 2**70, "x", "", [], [[]], {}, {"a": 1}, [None], ["x"], [1.5])


def malformed(latent: LatentConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests with one field replaced by something odd."""
    ids = [5, 9, latent.start_id, latent.pad_id, latent.end_id]
    extra = latent_args("given", np.ones((1, H), np.float32), key="odd", seed=1)
    salt = cache_salt("given", np.ones((1, H), np.float32), 1)
    params = {"max_tokens": 2, "temperature": 1.0, "n": 1, "seed": 1, "logprobs": 0, "logit_bias": {"5": 1.0}}
    good = {"token_ids": ids, "sampling_params": params | {"extra_args": extra}, "cache_salt": salt}
    good["content_parts"] = []
    for odd in ODD:
        for name in good:
            yield f"{name}={odd!r}", good | {name: odd}
        for name in (*params, "extra_args"):
            yield f"{name}={odd!r}", good | {"sampling_params": good["sampling_params"] | {name: odd}}
        for name in extra:
            changed = good["sampling_params"] | {"extra_args": extra | {name: odd}}
            yield f"{name}={odd!r}", good | {"sampling_params": changed}


def odd_chats() -> Iterator[tuple[str, dict[str, Any]]]:
    """Chats with placeholders typed in and with pictures that are none, or of odd shapes."""
    for text in ("<|image_pad|>", "<|video_pad|><|vision_end|>", "<|latent_start|>", "<|latent_end|>", "\x00", ""):
        yield text, {"messages": [{"role": "user", "content": text}]}
    for name, url in {
        "no picture": "data:image/png;base64,AAAA",
        "one pixel": data_url(png(1, 1, 0)),
        "a line": data_url(png(1, 2000, 0)),
        "cut off": data_url(png(56, 56, 0)[:100]),
    }.items():
        yield name, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


def test_the_engine_outlives_whatever_it_is_sent(latent_server: RunningServer, latent: LatentConfig) -> None:
    requests = [(name, GENERATE, body) for name, body in malformed(latent)]
    requests += [(name, "/v1/chat/completions", body | {"max_tokens": 2}) for name, body in odd_chats()]
    statuses = {f"{path} {name}": latent_server.post(path, body)[0] for name, path, body in requests}
    failed = {name: status for name, status in statuses.items() if status >= 500}
    assert not failed
    assert 400 in statuses.values() and 200 in statuses.values()
    assert generate(latent_server, [1, 2], max_tokens=2)[0].finish_reason == "length"


def test_pads_typed_into_a_chat_are_refused(latent_server: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "hi <|latent_pad|>"}]}
    status, answer = latent_server.post("/v1/chat/completions", body)
    assert status == 400
    assert "<|latent_pad|>" in answer["error"]["message"]


def hang_up(server: RunningServer, body: dict[str, Any], seconds: float) -> None:
    """Send a request and close the connection before the answer."""
    address = urllib.parse.urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    connection.request("POST", "/inference/v1/generate", json.dumps(body), {"content-type": "application/json"})
    time.sleep(seconds)
    connection.close()


def leaves_nothing(server: RunningServer, latent: LatentConfig, requests: int) -> None:
    ids = [1, latent.start_id]
    held = server.call("covt_status")["held_latents"]

    def one(n: int) -> None:
        if n % 5 == 4:
            body = with_extra(ids, latent_args(key=f"gone-{n}"))
            body["sampling_params"] |= {"max_tokens": 900, "ignore_eos": True}
            hang_up(server, body, 0.05)
        else:
            generate(server, ids, n=1 + n % 3, temperature=1.0, max_tokens=8)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(requests)))
    for _ in range(100):
        status = server.call("covt_status")
        if status["live_requests"] == 0:
            break
        time.sleep(0.2)
    assert status["latent_rows"] == status["live_requests"] == status["unread_ends"] == 0
    # Aborted requests with a key are held until they are read or pushed out; reading an unknown one is no error.
    gone = server.call("covt_take_latents", [f"gone-{n}" for n in range(requests)])
    assert len(gone) == requests
    assert server.call("covt_status")["held_latents"] == held


def test_ended_and_aborted_requests_leave_nothing_behind(latent_server: RunningServer, latent: LatentConfig) -> None:
    leaves_nothing(latent_server, latent, 100)


@pytest.mark.slow
@pytest.mark.many_requests
def test_ten_thousand_requests_leave_nothing_behind(latent_server: RunningServer, latent: LatentConfig) -> None:
    leaves_nothing(latent_server, latent, 10_000)


def test_a_limit_of_spans_is_held_by_the_server_and_leaves_the_probabilities_alone(
    latent_server: RunningServer, latent: LatentConfig
) -> None:
    often = {latent.start_id: 5.0}
    asked: dict[str, Any] = {"bias": often, "temperature": 1.0, "seed": 3, "n": 4, "max_tokens": 80}
    free = generate(latent_server, [1, 2], ignore_eos=False, **asked)
    held = generate(latent_server, [1, 2], ignore_eos=False, extra=latent_args(max_spans=2), **asked)
    assert max(len(find_whole_spans(one.token_ids, latent)) for one in free) > 2
    cut = 0
    for whole, one in zip(free, held, strict=True):
        spans = find_whole_spans(one.token_ids, latent)
        assert len(spans) <= 2
        if len(find_whole_spans(whole.token_ids, latent)) <= 2:
            assert one.token_ids == whole.token_ids
            continue
        # The same tokens up to the start of the third span, which is sampled; then the end, which is forced.
        cut += 1
        third = [place for place, token in enumerate(whole.token_ids) if token == latent.start_id][2]
        assert one.token_ids[:-1] == whole.token_ids[: third + 1]
        assert np.allclose(one.logprobs[:-1], whole.logprobs[: third + 1], atol=TOLERANCE)
        assert (one.finish_reason, one.logprobs[-1]) == ("stop", 0.0)
    assert cut
