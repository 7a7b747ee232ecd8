"""The request check answers bad latent requests itself and passes everything else on, byte for byte."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from covt_rollout.vllm_plugin import cache_salt, encode_latents, latent_args
from covt_rollout.vllm_plugin.frontend import GENERATE, LatentRequestCheck

START, PAD, END, IMAGE, H = 5, 6, 7, 8, 4
ONE = np.ones((1, H), dtype=np.float32)


def send(path: str, body: Any, head: str = "identity", chunks: int = 1, method: str = "POST") -> tuple[int, bytes]:
    """Status and body: 299 and what the inner application got when the request was passed on."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    latent = {"start_id": START, "pad_id": PAD, "end_id": END, "size": 3, "head": head}
    model = SimpleNamespace(
        hf_config=SimpleNamespace(covt_latent=latent, image_token_id=IMAGE), get_hidden_size=lambda: H
    )
    config = SimpleNamespace(model_config=model, additional_config={}, use_v2_model_runner=False)
    app = SimpleNamespace(state=SimpleNamespace(vllm_config=config))
    size = -(-len(raw) // chunks) or 1
    parts = [raw[i : i + size] for i in range(0, len(raw), size)] or [b""]
    inbox = [{"type": "http.request", "body": part, "more_body": n + 1 < len(parts)} for n, part in enumerate(parts)]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return inbox.pop(0)

    async def respond(message: Any) -> None:
        sent.append(message)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        got, more = b"", True
        while more:
            message = await receive()
            got, more = got + message["body"], message["more_body"]
        assert dict(scope["headers"])[b"content-length"] == str(len(got)).encode()
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": got})

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    scope = {"type": "http", "method": method, "path": path, "app": app, "headers": headers}
    asyncio.run(LatentRequestCheck(inner)(scope, receive, respond))
    return sent[0]["status"], sent[1]["body"]


def request(token_ids: list[int], extra: dict[str, Any] | None = None, images: int = 0, **more: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "url": "data:,"}] * images
    return {"token_ids": token_ids, "content_parts": parts, "sampling_params": {"extra_args": extra}} | more


@pytest.mark.parametrize(
    "body",
    [
        request([1, 2]),
        request([1, IMAGE, START], images=1),
        request([START, PAD], latent_args("keep", ONE)),
        request([START], latent_args("zeros"), cache_salt=cache_salt("zeros")),
        request([START], latent_args("zeros"), cache_salt=f"mine-{cache_salt('zeros')}"),
        request([1, IMAGE, IMAGE], features={"mm_hashes": {}}),
    ],
)
@pytest.mark.parametrize("chunks", [1, 3])
def test_good_requests_pass_unchanged(body: dict[str, Any], chunks: int) -> None:
    assert send(GENERATE, body, chunks=chunks) == (299, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (request([START, PAD]), "1 latent pads and 0 latents"),
        (request([START, *[PAD] * 4], latent_args("zeros"), cache_salt=cache_salt("zeros")), "4 latent pads in a row"),
        (request([START], {"latent_mode": "sum"}), "latent_mode is 'sum'"),
        (request([START], latent_args("zeros")), "needs a cache_salt"),
        (request([START], latent_args("given", ONE), cache_salt=cache_salt("given", 2 * ONE)), "needs a cache_salt"),
        (request([START, PAD], latent_args("keep", np.ones((1, 5), dtype=np.float32))), "5 dimensions"),
        (request([1, IMAGE, IMAGE], images=1), "2 image pads for 1 images"),
        (request([1, IMAGE]), "1 image pads for 0 images"),
        (request(["1"]), "malformed"),  # type: ignore[list-item]
        ({"token_ids": [1]}, "malformed"),
    ],
)
def test_bad_requests_are_http_400_with_a_remedy(body: dict[str, Any], message: str) -> None:
    status, answer = send(GENERATE, body)
    assert status == 400
    assert message in json.loads(answer)["error"]["message"]


def test_a_pause_checkpoint_continues_without_latents() -> None:
    assert send(GENERATE, request([START, PAD]), head="none")[0] == 299


def test_other_paths_methods_and_broken_json_are_vllms() -> None:
    assert send("/v1/models", b"anything") == (299, b"anything")
    assert send(GENERATE, b"{not json") == (299, b"{not json")
    assert send(GENERATE, b"", method="GET") == (299, b"")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "<|latent_pad|>"}),
        ("/v1/messages", {"system": [{"text": "<|latent_pad|>"}], "messages": []}),
        ("/v1/completions", {"prompt": [1, PAD]}),
        ("/v1/completions", {"prompt": [[1], [2, PAD]]}),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "\\u003c|latent_pad|>"}]}'),
    ],
)
def test_pads_in_other_prompts_are_refused(path: str, body: Any) -> None:
    status, answer = send(path, body)
    assert status == 400
    assert "<|latent_pad|>" in json.loads(answer)["error"]["message"]


def test_other_prompts_and_numbers_pass() -> None:
    assert send("/v1/completions", {"prompt": [1, 2], "max_tokens": PAD, "echo": True})[0] == 299
    assert send("/v1/completions", {"prompt": "hi", "logit_bias": {"6": 6}})[0] == 299
    assert send("/v1/embeddings", ["<|latent_pad|>"])[0] == 299


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_openai_requests(path: str) -> None:
    field = "messages" if "chat" in path else "prompt"
    text: Any = [{"role": "user", "content": [{"type": "text", "text": "hi <|latent_pad|>"}]}]
    plain: Any = [{"role": "user", "content": "hi"}]
    if field == "prompt":
        text, plain = "hi <|latent_pad|>", "hi"
    assert send(path, {field: plain})[0] == 299
    assert send(path, {field: plain, "vllm_xargs": {"latent_key": "k"}})[0] == 299
    for body in (
        {field: text},
        {field: plain, "vllm_xargs": encode_latents(ONE) | {"latent_shape": [2, H]}},
        {field: plain, "vllm_xargs": latent_args("keep", ONE)},
        {field: plain, "vllm_xargs": latent_args("given", ONE[:, :2])},
    ):
        assert send(path, body)[0] == 400


def passed_on(path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, got = send(path, body)
    assert status == 299
    return json.loads(got)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_plain_clients_need_not_know_of_salts(path: str) -> None:
    body = {"prompt": "hi", "vllm_xargs": latent_args("noise", seed=3)}
    needed = cache_salt("noise", seed=3)
    assert passed_on(path, body)["cache_salt"] == needed
    assert passed_on(path, body | {"cache_salt": "mine"})["cache_salt"] == f"{needed}-mine"
    assert passed_on(path, body | {"cache_salt": f"mine-{needed}"})["cache_salt"] == f"mine-{needed}"
    long = [passed_on(path, body | {"cache_salt": letter * 100})["cache_salt"] for letter in "ab"]
    assert needed is not None and all(salt.startswith(needed) and len(salt) <= 128 for salt in long)
    assert long[0] != long[1]
    assert passed_on(path, body | {"cache_salt": 7})["cache_salt"] == 7
    assert "cache_salt" not in passed_on(path, {"prompt": "hi", "vllm_xargs": latent_args("keep")})


def test_the_text_of_plain_clients_has_the_spans_unless_they_say_otherwise() -> None:
    for path, body in (("/v1/chat/completions", {"messages": []}), ("/v1/completions", {"prompt": "hi"})):
        assert passed_on(path, body) == body | {"skip_special_tokens": False}
        chosen = body | {"skip_special_tokens": True}
        assert passed_on(path, chosen) == chosen
    assert passed_on("/v1/responses", {"input": "hi"}) == {"input": "hi"}


def test_an_answer_with_a_span_can_be_the_history_of_the_next_turn() -> None:
    answer = "so <|latent_start|><|latent_pad|><|latent_pad|><|latent_end|> B3"
    messages = [
        {"role": "user", "content": "which?"},
        {"role": "assistant", "content": answer},
        {"role": "assistant", "content": [{"type": "text", "text": answer}, {"type": "image_url"}]},
        {"role": "assistant", "tool_calls": []},
    ]
    kept = "so <|latent_start|><|latent_end|> B3"
    assert passed_on("/v1/chat/completions", {"messages": messages})["messages"] == [
        messages[0],
        {"role": "assistant", "content": kept},
        {"role": "assistant", "content": [{"type": "text", "text": kept}, {"type": "image_url"}]},
        messages[3],
    ]
    assert send("/v1/chat/completions", {"messages": [{"role": "user", "content": answer}]})[0] == 400
