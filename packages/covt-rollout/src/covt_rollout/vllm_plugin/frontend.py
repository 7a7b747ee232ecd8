"""Checks latent requests in the API server, which answers a bad request with HTTP 400 before the engine sees it.

It also serves plain clients, which know nothing of latents: their requests get the prefix cache's salt of their latent
mode. OpenAI's request forms leave special tokens out of the text by default, so spans are made visible there, and an
answer with spans may come back as the history of the next request.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from covt_model.encoding.latent_tokens import PAD
from covt_model.model_errors import ModelError
from covt_rollout.vllm_plugin.engine_settings import SPANS_KEY, EngineSettings
from covt_rollout.vllm_plugin.protocol import GENERATE, LatentOptions, cache_salt, check_prompt, read_options

# All other paths that generate: OpenAI's, Anthropic's and vLLM's own request forms.
OTHERS = ("/v1/", "/inference/", "/generative_scoring")
TEXT_ANSWERS = ("/v1/chat/completions", "/v1/completions")
MAX_SALT = 128
"""Characters that vLLM accepts as a cache salt."""


class SamplingFields(msgspec.Struct):
    """The field of `sampling_params` that holds the plugin's fields."""

    extra_args: dict[str, Any] | None = None


class GenerateFields(msgspec.Struct):
    """The fields of a generate request that are checked; msgspec skips the others without building them."""

    token_ids: list[int]
    sampling_params: SamplingFields
    content_parts: list[dict[str, Any]] | None = None
    features: dict[str, Any] | None = None
    cache_salt: str | None = None


class LatentRequestCheck:
    """ASGI middleware that refuses latent requests which can't be served, and passes on everything else.

    Requests for text are passed on as `show_spans` and `add_salt` change them, those for tokens unchanged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.settings: EngineSettings | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(OTHERS):
            await self.app(scope, receive, send)
            return
        messages, body = await read_body(receive)
        try:
            changed = self.check(scope, body)
        except ModelError as error:
            await refuse(send, f"{error}: {error.remedy}")
            return
        if changed is not None:
            scope, messages = with_body(scope, changed)

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)

    def check(self, scope: Scope, body: bytes) -> bytes | None:
        """Check a request's body; returns a changed body where one is needed.

        Raises ModelError for a request that can't be served.
        """
        if self.settings is None:
            self.settings = EngineSettings.read(scope["app"].state.vllm_config)
        try:
            if scope["path"] == GENERATE:
                check_generate(msgspec.json.decode(body, type=GenerateFields), self.settings)
                return None
            request = msgspec.json.decode(body)
        except msgspec.ValidationError as error:
            raise ModelError(f"the request is malformed: {error}", "see the fields in docs/rollout.md") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # not JSON: vLLM says so
        shown = scope["path"] in TEXT_ANSWERS and isinstance(request, dict)
        if shown:
            show_spans(request)
        salted = check_other(request, self.settings)
        return msgspec.json.encode(request) if shown or salted else None


def check_generate(request: GenerateFields, settings: EngineSettings) -> None:
    """Raise ModelError when prompt, latents and images don't fit together."""
    options = read_options(request.sampling_params.extra_args)
    latent = settings.latent
    check_prompt(request.token_ids, options, latent.pad_id, latent.size, settings.hidden, feeds=latent.head != "none")
    check_salt(request.cache_salt, cache_salt(options.mode, options.data, options.seed), options.mode)
    check_room(request.token_ids, options, settings)
    if request.features is None:
        pads = request.token_ids.count(settings.image_id)
        images = sum(part.get("type") == "image_url" for part in request.content_parts or ())
        if pads != images:
            raise ModelError(
                f"token_ids has {pads} image pads for {images} images",
                "send one <|image_pad|> for each image; the server expands it",
            )


def check_room(token_ids: list[int], options: LatentOptions, settings: EngineSettings) -> None:
    """Raise ModelError for more latents than the V2 runner has room for, less one span for the answer."""
    room = settings.max_pads - settings.latent.size
    latents = max(token_ids.count(settings.latent.pad_id), 0 if options.data is None else len(options.data))
    if settings.max_pads and latents > room:
        raise ModelError(
            f"the prompt brings {latents} latents, the server has room for {room}",
            f"""start it with --additional-config '{{"{SPANS_KEY}": …}}' and more spans, or with --runner v1""",
        )


def check_other(request: Any, settings: EngineSettings) -> bool:
    """Check a request of another form, and give it the cache salt of its latent mode; returns whether it has changed.

    Raises ModelError for pads in its prompt or unsuitable latent fields.
    """
    if not isinstance(request, dict):
        return False
    extra = request.get("vllm_xargs")
    options = read_options(extra if isinstance(extra, dict) else None)
    check_prompt([], options, settings.latent.pad_id, settings.latent.size, settings.hidden)
    prompts = {name: value for name, value in request.items() if name not in ("vllm_xargs", "logit_bias")}
    if mentions(prompts, PAD) or mentions(request.get("prompt"), settings.latent.pad_id):
        raise ModelError(f"the prompt has {PAD}", f"continue latents with {GENERATE} and latent_data")
    return add_salt(request, cache_salt(options.mode, options.data, options.seed))


def add_salt(request: dict[str, Any], needed: str | None) -> bool:
    """Put the needed salt before the request's own; returns whether the request has changed.

    A salt that is no text stays, and vLLM refuses it.
    """
    given = request.get("cache_salt")
    if needed is None or not (given is None or isinstance(given, str)) or needed in (given or ""):
        return False
    if given and len(needed) + 1 + len(given) > MAX_SALT:
        given = hashlib.sha256(given.encode()).hexdigest()[:32]
    request["cache_salt"] = f"{needed}-{given}" if given else needed
    return True


def show_spans(request: dict[str, Any]) -> None:
    """Keep special tokens in the answer's text, and remove the pads from earlier answers.

    The text doesn't hold latents, so a later turn reads an earlier span without them, as in the mode `drop_latents`.
    """
    request.setdefault("skip_special_tokens", False)
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "assistant" and "content" in message:
            message["content"] = without_pads(message["content"])


def without_pads(content: Any) -> Any:
    """A message's content, a string or a list of parts, without pads."""
    if isinstance(content, str):
        return content.replace(PAD, "")
    if isinstance(content, list):
        return [
            part | {"text": without_pads(part["text"])} if isinstance(part, dict) and "text" in part else part
            for part in content
        ]
    return content


def check_salt(given: Any, needed: str | None, mode: str) -> None:
    """Raise ModelError unless the request's cache salt contains the needed one."""
    if needed is not None and not (isinstance(given, str) and needed in given):
        raise ModelError(
            f"latent_mode {str(mode)!r} needs a cache_salt that contains {needed!r}, got {given!r}",
            "use covt_rollout.vllm_plugin.protocol.cache_salt, or the cache answers with the results of other latents",
        )


def mentions(value: Any, wanted: str | int) -> bool:
    """Whether a JSON value contains `wanted`: a text within a string, or a number."""
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    if isinstance(value, dict):
        return any(mentions(item, wanted) for item in value.values())
    if isinstance(value, list):
        return any(mentions(item, wanted) for item in value)
    return value is not True and value == wanted


async def read_body(receive: Receive) -> tuple[list[Message], bytes]:
    """Read the request's body; returns its messages, to be passed on, and the joined bytes."""
    messages: list[Message] = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages, b"".join(message.get("body", b"") for message in messages)


def with_body(scope: Scope, body: bytes) -> tuple[Scope, list[Message]]:
    """Scope and messages of the same request with another body."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
    return scope, [{"type": "http.request", "body": body, "more_body": False}]


async def refuse(send: Send, text: str) -> None:
    """Answer HTTP 400 in the form of vLLM's own errors."""
    body = json.dumps({"error": {"message": text, "type": "BadRequestError", "param": None, "code": 400}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
