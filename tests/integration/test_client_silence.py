"""A time-out is for silence: a slow request waits while its server is alive, and what is sent again is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from fake_server import completed, run, serving_app

from covt_model.latent_config import LatentConfig
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.rollout_errors import ServerUnreachableError

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)
TEN = Sampling(max_tokens=10)
LIMIT = 0.4


class Engine:
    """A server of which the engine answers or not: `alive` says whether, `seconds` how long a request takes."""

    def __init__(self, seconds: float, alive: bool = True) -> None:
        self.seconds, self.alive = seconds, alive
        self.requests = self.probes = 0

    async def generate(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.json()
        await asyncio.sleep(self.seconds)
        return completed(body, [7])

    async def weight_info(self, _request: web.Request) -> web.Response:
        self.probes += 1
        if not self.alive:
            await asyncio.sleep(30)
        return web.json_response({"weight_version": "default"})


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/inference/v1/generate", engine.generate)
    app.router.add_get("/weight_info", engine.weight_info)
    async with serving_app(app) as url:
        yield url


def ask(engines: list[Engine], prompts: int = 1, **settings: Any) -> tuple[Any, list[str], int]:
    """The completions, or the error; what was said; and how many requests were sent again."""
    notes: list[str] = []

    async def work() -> Any:
        async with _all(engines) as urls:
            client = RolloutClient(
                urls, latent=LATENT, decode=str, timeout=LIMIT, backoff=0.001, on_note=notes.append, **settings
            )
            async with client:
                try:
                    answers = await client.generate([PromptRequest((n,)) for n in range(prompts)], TEN)
                except ServerUnreachableError as error:
                    return error, client.transport.resent
                return answers, client.transport.resent

    answer, resent = run(work())
    return answer, notes, resent


@asynccontextmanager
async def _all(engines: list[Engine]) -> AsyncIterator[list[str]]:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(engine)) for engine in engines]


def test_a_request_that_takes_longer_than_the_limit_is_sent_once_while_its_server_is_alive() -> None:
    engine = Engine(2.5 * LIMIT)
    answers, notes, resent = ask([engine])
    assert answers[0][0].token_ids == (7,)
    assert (engine.requests, resent) == (1, 0)
    assert notes and all("is slow" in note and "alive" in note for note in notes)


def test_many_waiting_requests_ask_their_server_together() -> None:
    engine = Engine(2.5 * LIMIT)
    answers, notes, _ = ask([engine], prompts=50)
    assert len(answers) == 50
    assert engine.requests == 50
    # Every half limit once, not once for each request.
    assert engine.probes <= 15
    assert len(notes) <= 15


def test_a_silent_server_fails_after_the_limit_with_its_name_and_is_not_asked_again_and_again() -> None:
    engine = Engine(30.0, alive=False)
    error, notes, resent = ask([engine], attempts=6)
    assert "no sign of life for 0.4 s" in str(error)
    assert (engine.requests, resent) == (1, 0)
    assert [note for note in notes if "failed" in note]


def test_a_silent_server_s_requests_go_to_another_which_is_said_once() -> None:
    silent, fine = Engine(30.0, alive=False), Engine(0.0)
    answers, notes, resent = ask([silent, fine], prompts=8)
    assert len(answers) == 8
    assert fine.requests == 8 and silent.requests == resent
    assert len([note for note in notes if "its requests are sent again" in note]) == 1


@pytest.mark.parametrize("dead", [1, 3])
def test_a_silent_server_that_is_brought_back_gets_each_request_once_more(dead: int) -> None:
    """Not six times for each of six recoveries."""
    engine = Engine(30.0, alive=False)
    recoveries = 0

    async def bring_back() -> None:
        nonlocal recoveries
        recoveries += 1
        if recoveries == dead:
            engine.alive, engine.seconds = True, 0.0

    answers, _, resent = ask([engine], attempts=6, on_down=bring_back)
    assert answers[0][0].token_ids == (7,)
    assert engine.requests == dead + 1
    assert resent == dead


def test_a_question_that_is_still_open_ends_with_the_client() -> None:
    engine = Engine(3.5 * LIMIT, alive=False)

    async def work() -> set[str]:
        async with serving(engine) as url:
            client = RolloutClient(url, latent=LATENT, decode=str, timeout=5 * LIMIT)
            async with client:
                await client.generate([PromptRequest((1,))], TEN)
            await asyncio.sleep(0)
            return {task.get_name() for task in asyncio.all_tasks() if "_ask" in repr(task.get_coro())}

    assert run(work()) == set()
    assert engine.probes == 1


def with_stream(events: Callable[[web.StreamResponse], Awaitable[None]]) -> Any:
    async def work() -> Any:
        async def generate(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await events(response)
            return response

        app = web.Application()
        app.router.add_post("/inference/v1/generate", generate)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with RolloutClient(url, latent=LATENT, decode=str, timeout=LIMIT, attempts=1) as client:
                return await client.generate([PromptRequest((1,))], TEN, on_progress=lambda _: None)
        finally:
            await runner.cleanup()

    return run(work())


def test_a_stream_that_keeps_talking_may_take_any_time_also_where_the_engine_is_not_asked() -> None:
    """This server has no other path than the one that generates."""

    async def talk(response: web.StreamResponse) -> None:
        for number in range(12):
            await response.write(_event([number], finished=number == 11, first=number == 0))
            await asyncio.sleep(LIMIT / 4)
        await response.write(b"data: [DONE]\n\n")

    ((one,),) = with_stream(talk)
    assert one.token_ids == tuple(range(12))


def test_a_stream_that_falls_silent_is_given_up() -> None:
    async def stop(response: web.StreamResponse) -> None:
        await response.write(_event([1], finished=False, first=True))
        await asyncio.sleep(30)

    with pytest.raises(ServerUnreachableError, match="no sign of life"):
        with_stream(stop)


def _event(token_ids: list[int], *, finished: bool, first: bool) -> bytes:
    import json

    choice = {
        "index": 0,
        "token_ids": token_ids,
        "logprobs": {"content": [{"logprob": -0.5} for _ in token_ids]},
        "finish_reason": "stop" if finished else None,
        "weight_versions": [{"version": "default", "start": 0, "end": 1}] if finished else None,
    }
    event = {"choices": [choice]} | ({"prompt_token_ids": [1]} if first else {})
    return f"data: {json.dumps(event)}\n\n".encode()
