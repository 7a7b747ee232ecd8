"""Checks latent requests in the API server, where a bad one is HTTP 400 and the engine never sees it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from covt_model.errors import ModelError
from covt_model.tokens import PAD
from covt_model.vllm_plugin.protocol import cache_salt, check_prompt, read_options
from covt_model.vllm_plugin.settings import EngineSettings

GENERATE = "/inference/v1/generate"
# Everything else that generates: OpenAI's, Anthropic's and vLLM's own request forms.
OTHERS = ("/v1/", "/inference/", "/generative_scoring")


class SamplingFields(msgspec.Struct):
    extra_args: dict[str, Any] | None = None


class GenerateFields(msgspec.Struct):
    """The fields of a generate request that matter here; msgspec skips the others without building them."""

    token_ids: list[int]
    sampling_params: SamplingFields
    content_parts: list[dict[str, Any]] | None = None
    features: dict[str, Any] | None = None
    cache_salt: str | None = None


class LatentRequestCheck:
    """ASGI middleware: answers a latent request that can't be served, and passes everything else on unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.settings: EngineSettings | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(OTHERS):
            await self.app(scope, receive, send)
            return
        messages, body = await read_body(receive)
        try:
            self.check(scope, body)
        except ModelError as error:
            await refuse(send, f"{error}: {error.remedy}")
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)

    def check(self, scope: Scope, body: bytes) -> None:
        if self.settings is None:
            self.settings = EngineSettings.read(scope["app"].state.vllm_config)
        try:
            if scope["path"] == GENERATE:
                check_generate(msgspec.json.decode(body, type=GenerateFields), self.settings)
            else:
                check_other(msgspec.json.decode(body), self.settings)
        except msgspec.ValidationError as error:
            raise ModelError(f"the request is malformed: {error}", "see the fields in docs/rollout.md") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # not JSON: vLLM says so


def check_generate(request: GenerateFields, settings: EngineSettings) -> None:
    """Raise ModelError for prompts and latents that don't fit together."""
    options = read_options(request.sampling_params.extra_args)
    latent = settings.latent
    check_prompt(request.token_ids, options, latent.pad_id, latent.size, settings.hidden, feeds=latent.head != "none")
    check_salt(request.cache_salt, cache_salt(options.mode, options.data, options.seed), options.mode)
    if request.features is None:
        pads = request.token_ids.count(settings.image_id)
        pictures = sum(part.get("type") == "image_url" for part in request.content_parts or ())
        if pads != pictures:
            raise ModelError(
                f"token_ids has {pads} image pads for {pictures} pictures",
                "send one <|image_pad|> a picture, the server expands it",
            )


def check_other(request: Any, settings: EngineSettings) -> None:
    """Raise ModelError for latent fields that a request of another form can't have, and for pads in its prompt."""
    if not isinstance(request, dict):
        return
    extra = request.get("vllm_xargs")
    options = read_options(extra if isinstance(extra, dict) else None)
    check_prompt([], options, settings.latent.pad_id, settings.latent.size, settings.hidden)
    check_salt(request.get("cache_salt"), cache_salt(options.mode, options.data, options.seed), options.mode)
    prompts = {name: value for name, value in request.items() if name not in ("vllm_xargs", "logit_bias")}
    if mentions(prompts, PAD) or mentions(request.get("prompt"), settings.latent.pad_id):
        raise ModelError(f"the prompt has {PAD}", f"continue latents with {GENERATE} and latent_data")


def check_salt(given: Any, needed: str | None, mode: str) -> None:
    if needed is not None and not (isinstance(given, str) and needed in given):
        raise ModelError(
            f"latent_mode {mode!r} needs a cache_salt that contains {needed!r}, got {given!r}",
            "use covt_model.vllm_plugin.protocol.cache_salt, or results of other latents are read from the cache",
        )


def mentions(value: Any, wanted: str | int) -> bool:
    """Whether a JSON value has the text `wanted` in a string, or the number `wanted`."""
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    if isinstance(value, dict):
        return any(mentions(item, wanted) for item in value.values())
    if isinstance(value, list):
        return any(mentions(item, wanted) for item in value)
    return value is not True and value == wanted


async def read_body(receive: Receive) -> tuple[list[Message], bytes]:
    """All messages of the request's body, to be sent on, and the body."""
    messages: list[Message] = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages, b"".join(message.get("body", b"") for message in messages)


async def refuse(send: Send, text: str) -> None:
    """HTTP 400 in the form of vLLM's own errors."""
    body = json.dumps({"error": {"message": text, "type": "BadRequestError", "param": None, "code": 400}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
