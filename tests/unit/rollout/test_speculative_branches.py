"""Streamed answers, and continuations that begin before their parents have ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fake_server import Stream, completed, piece, run, serving

from covt_model.latent_config import LatentConfig
from covt_rollout.branches.branch_points import BranchPoint
from covt_rollout.branches.continuations import continue_from, merge_equal_prefixes
from covt_rollout.branches.speculative_branches import SpanCountHistory, SpeculativeBranches
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling

START, PAD, END = 100, 101, 102
LATENT = LatentConfig(start_id=START, pad_id=PAD, end_id=END, size=2)
SPAN = [START, PAD, PAD, END]
PROMPT = PromptRequest((1, 2), group_id="a")
END_OF_STREAM = ("[DONE]", None)
SAMPLING = Sampling(max_tokens=20, n=1, seed=50)
# A server that has given up a connection; the client must not wait for it.
SOON = 5.0


class Server:
    """Keeps every request as a stream that the test fills; answers plain requests with `plain`."""

    def __init__(self, plain: list[int] | None = None) -> None:
        self.plain, self.bodies = plain, []
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()

    def __call__(self, body: dict[str, Any]) -> Any:
        self.bodies.append(body)
        if "stream" not in body:
            assert self.plain is not None, "a plain request"
            return completed(body, self.plain)
        stream = Stream(body)
        self.streams.put_nowait(stream)
        return stream

    async def next(self) -> Stream:
        return await asyncio.wait_for(self.streams.get(), SOON)


def with_server(server: Server, work: Callable[[RolloutClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with (
            serving(server) as url,
            RolloutClient(url, latent=LATENT, decode=lambda ids: " ".join(map(str, ids)), backoff=0.001) as client,
        ):
            return await work(client)

    return run(main())


def test_a_streamed_answer_is_the_same_as_a_plain_one_and_is_seen_as_it_grows() -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    async def work(client: RolloutClient) -> Any:
        plain = await client.generate([PROMPT], Sampling(max_tokens=9, n=2, seed=4))
        asked = asyncio.ensure_future(
            client.generate(
                [PROMPT],
                Sampling(max_tokens=9, n=2, seed=4),
                on_progress=lambda one: seen.append((one.index, tuple(one.token_ids))),
            )
        )
        stream = await server.next()
        stream.send(piece(1, [7]), piece(0, [7, *SPAN]), piece(1, [*SPAN, 9], "stop"), piece(0, [9], "stop"))
        stream.send(*END_OF_STREAM)
        return plain, await asked

    server = Server(plain=[7, *SPAN, 9])
    plain, streamed = with_server(server, work)
    assert streamed == plain
    assert seen == [(1, (7,)), (0, (7, *SPAN)), (1, (7, *SPAN, 9)), (0, (7, *SPAN, 9))]
    assert server.bodies[1]["sampling_params"]["stream_interval"] == 16


@pytest.mark.parametrize(
    "events",
    [
        (piece(0, [7]), None),
        (piece(0, [7]), "[DONE]", None),
        (json.dumps({"error": {"message": "engine dead"}}), "[DONE]", None),
        ("{broken", None),
    ],
    ids=["cut", "no finish", "error", "no JSON"],
)
def test_a_broken_stream_is_asked_for_again_and_its_pieces_are_forgotten(events: tuple[Any, ...]) -> None:
    seen: list[tuple[int, ...]] = []

    async def work(client: RolloutClient) -> Any:
        asked = asyncio.ensure_future(
            client.generate([PROMPT], SAMPLING, on_progress=lambda one: seen.append(tuple(one.token_ids)))
        )
        (await server.next()).send(*events)
        (await server.next()).send(piece(0, [8]), piece(0, [9], "stop"), *END_OF_STREAM)
        return await asked, client.transport.resent

    server = Server()
    ((one,),), resent = with_server(server, work)
    assert one.token_ids == (8, 9)
    assert resent == 1
    # Only the first stream is reported: another one may begin with other tokens.
    assert set(seen) <= {(7,)}


async def sampled(
    client: RolloutClient, branches: SpeculativeBranches, n: int = 1
) -> tuple[list[Completion], list[list[Completion]]]:
    """A prompt's completions and continuations, as the collector asks for them."""
    async with branches:
        (completions,) = await client.generate([PROMPT], Sampling(max_tokens=20, n=n), on_progress=branches.observe)
        pending = branches.settle(completions)
        prompts = [PROMPT] * n
        return completions, await continue_from(
            client, prompts, completions, "drop_latents", SAMPLING, which=branches.which, pending=pending
        )


def speculate(
    client: RolloutClient, which: Any, n: int = 1, spans: SpanCountHistory | None = None
) -> SpeculativeBranches:
    return SpeculativeBranches(client, PROMPT, range(n), "drop_latents", SAMPLING, which, spans or SpanCountHistory())


def test_equal_beginnings_of_running_parents_become_one_request() -> None:
    async def work(client: RolloutClient) -> Any:
        asked = asyncio.ensure_future(sampled(client, speculate(client, "first", 2), 2))
        parent = await server.next()
        parent.send(piece(0, [5, *SPAN]), piece(1, [5, *SPAN, 6]))
        continuation = await server.next()
        continuation.send(piece(0, [8], "stop"), piece(1, [9], "stop"), *END_OF_STREAM)
        parent.send(piece(0, [7], "stop"), piece(1, [*SPAN], "stop"), *END_OF_STREAM)
        return continuation.body, await asked

    server = Server()
    body, (completions, continued) = with_server(server, work)
    assert [one.token_ids for one in completions] == [(5, *SPAN, 7), (5, *SPAN, 6, *SPAN)]
    assert body["token_ids"] == [1, 2, 5, START, END]
    parameters = body["sampling_params"]
    assert (parameters["n"], parameters["seed"], parameters["max_tokens"]) == (2, 50, 15)
    shown = [[(one.token_ids, one.seed, one.sample_index, one.parent) for one in group] for group in continued]
    assert shown == [[((5, START, END, 8), 50, 0, 0)], [((5, START, END, 9), 51, 0, 1)]]
    assert len(server.bodies) == 2


def test_a_guess_is_taken_back_when_another_span_closes() -> None:
    async def work(client: RolloutClient) -> Any:
        branches = speculate(client, "last")
        asked = asyncio.ensure_future(sampled(client, branches))
        parent = await server.next()
        parent.send(piece(0, [5, *SPAN]))
        (await server.next()).send(piece(0, [8, 8, 8]))
        await asyncio.sleep(0.05)
        parent.send(piece(0, [6, *SPAN]))
        second = await server.next()
        second.send(piece(0, [9], "stop"), *END_OF_STREAM)
        parent.send(piece(0, [7], "stop"), *END_OF_STREAM)
        _, continued = await asked
        return second.body, continued, branches.wasted_tokens

    server = Server()
    body, ((one,),), abandoned = with_server(server, work)
    assert body["token_ids"] == [1, 2, 5, START, END, 6, START, END]
    assert one.token_ids == (5, START, END, 6, START, END, 9)
    assert abandoned == 3
    assert len(server.bodies) == 3


def test_a_span_that_is_seldom_the_last_is_not_guessed() -> None:
    spans = SpanCountHistory()
    for _ in range(3):
        spans.add(2)

    async def work(client: RolloutClient) -> Any:
        asked = asyncio.ensure_future(sampled(client, speculate(client, "last", spans=spans)))
        parent = await server.next()
        parent.send(piece(0, [5, *SPAN]))
        await asyncio.sleep(0.05)
        parent.send(piece(0, [*SPAN]))
        (await server.next()).send(piece(0, [9], "stop"), *END_OF_STREAM)
        parent.send(piece(0, [7], "stop"), *END_OF_STREAM)
        return await asked

    server = Server()
    with_server(server, work)
    assert [len(body["token_ids"]) for body in server.bodies] == [2, 7]


def test_a_continuation_by_other_weights_than_its_parents_is_asked_for_again() -> None:
    async def work(client: RolloutClient) -> Any:
        asked = asyncio.ensure_future(sampled(client, speculate(client, "first")))
        parent = await server.next()
        parent.send(piece(0, [5, *SPAN]))
        (await server.next()).send(piece(0, [8], "stop", version="3"), *END_OF_STREAM)
        parent.send(piece(0, [7], "stop"), *END_OF_STREAM)
        return await asked

    server = Server(plain=[9])
    _, ((one,),) = with_server(server, work)
    assert (one.token_ids, one.weight_version) == ((5, START, END, 9), 0)


def test_nothing_goes_on_when_the_parents_fail() -> None:
    """The continuation's request ends with its parent's."""

    async def work(client: RolloutClient) -> None:
        asked = asyncio.ensure_future(sampled(client, speculate(client, "first")))
        (await server.next()).send(piece(0, [5, *SPAN]))
        await server.next()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert [task for task in asyncio.all_tasks() if "generate" in repr(task.get_coro())] == []

    server = Server()
    with_server(server, work)


def point(prefix: tuple[int, ...], budget: int = 9, mode: str = "keep") -> BranchPoint:
    return BranchPoint(prefix, (), 2, budget, LatentInput(mode=mode))


@pytest.mark.parametrize(
    ("points", "temperature", "requests"),
    [
        ({0: point((5,)), 1: point((5,)), 2: point((5,))}, 1.0, [(0, 3, 50)]),
        ({0: point((5,)), 2: point((5,))}, 1.0, [(0, 1, 50), (2, 1, 52)]),
        ({0: point((5,)), 1: point((6,))}, 1.0, [(0, 1, 50), (1, 1, 51)]),
        ({0: point((5,)), 1: point((5,), 8)}, 1.0, [(0, 1, 50), (1, 1, 51)]),
        ({0: point((5,)), 1: point((5,))}, 0.0, [(0, 1, 50), (1, 1, 51)]),
        ({0: point((5,)), 1: point((5,)), 2: point((5,)), 3: point((5,))}, 1.0, [(0, 3, 50), (3, 1, 53)]),
    ],
)
def test_neighbours_share_a_request_and_keep_their_seeds(points, temperature, requests) -> None:
    sampling = Sampling(max_tokens=20, temperature=temperature, seed=50)
    asks = merge_equal_prefixes([PROMPT] * 4, points, sampling, most=3)
    assert [(ask.indexes.start, ask.sampling.n, ask.sampling.seed) for ask in asks] == requests


def test_a_span_is_likely_the_last_when_half_of_the_completions_ended_with_it() -> None:
    spans = SpanCountHistory()
    assert spans.likely_last(1)
    for number in (1, 2, 2, 3, 0):
        spans.add(number)
    assert [spans.likely_last(number) for number in (1, 2, 3, 4)] == [False, True, True, True]
    for _ in range(300):
        spans.add(1)
    assert spans.likely_last(1)
