"""The client against servers that fail, hang, abort, mix versions: what is sent again, and what is not."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from fake_server import completed, run, serving

from covt_model.latent_config import LatentConfig
from covt_model.model_errors import ModelError
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling, request_body
from covt_rollout.rollout_errors import RolloutError, ServerRefusedError, ServerUnreachableError, StaleWeightsError
from covt_rollout.vllm_plugin.protocol import cache_salt, encode_latents

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)
PROMPT = PromptRequest((1, 2, 3), group_id="a")
TEN = Sampling(max_tokens=10)


def client_of(url: str | list[str], **settings: Any) -> RolloutClient:
    defaults: dict[str, Any] = {"backoff": 0.001, "timeout": 5.0, "attempts": 3}
    return RolloutClient(url, latent=LATENT, decode=lambda ids: " ".join(map(str, ids)), **(defaults | settings))


class Script:
    """Answers each request with the next of the given answers, the last one forever; keeps the requests."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.bodies = list(answers), []

    def __call__(self, body: dict[str, Any]) -> Any:
        self.bodies.append(body)
        answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
        return answer(body) if callable(answer) else answer


def fine(body: dict[str, Any]) -> web.Response:
    return completed(body, [7, 100, 101, 101, 102, 9])


def status(code: int, message: str = "no") -> Any:
    return lambda _body: web.json_response({"error": {"message": message}}, status=code)


def generate(script: Any, sampling: Sampling = TEN, prompts: Any = (PROMPT,), **settings: Any) -> Any:
    async def work() -> Any:
        async with serving(script) as url, client_of(url, **settings) as client:
            return await client.generate(prompts, sampling)

    return run(work())


def test_a_completion_carries_what_the_server_said() -> None:
    ((first, second),) = generate(Script(fine), Sampling(max_tokens=10, n=2, seed=40))
    assert (first.sample_index, second.sample_index) == (0, 1)
    assert (first.seed, second.seed) == (40, 41)
    assert first.prompt_ids == (1, 2, 3)
    assert first.token_ids == (7, 100, 101, 101, 102, 9)
    assert first.logprobs == (-0.5,) * 6
    assert first.latent_spans == ((2, 4),)
    assert first.text == "7 100 101 101 102 9"
    assert (first.group_id, first.mode, first.finish_reason, first.weight_version) == ("a", "keep", "stop", 0)


def test_prompts_keep_their_order_and_get_disjoint_seeds() -> None:
    async def slow_first(body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(0.05 if body["token_ids"] == [0] else 0)
        return completed(body, body["token_ids"])

    script = Script(slow_first)
    prompts = [PromptRequest((number,), group_id=str(number)) for number in range(5)]
    groups = generate(script, Sampling(max_tokens=10, n=4, seed=100), prompts)
    assert [group[0].token_ids for group in groups] == [(number,) for number in range(5)]
    assert sorted(body["sampling_params"]["seed"] for body in script.bodies) == [100, 104, 108, 112, 116]


@pytest.mark.parametrize("code", [500, 502, 503, 429, 408])
def test_failures_that_may_pass_are_sent_again(code: int) -> None:
    script = Script(status(code), status(code), fine)
    assert generate(script)[0][0].token_ids[0] == 7
    assert len(script.bodies) == 3


@pytest.mark.parametrize("code", [400, 404, 422])
def test_a_wrong_request_is_not_sent_again(code: int) -> None:
    script = Script(status(code, "prompt too long"))
    with pytest.raises(ServerRefusedError, match=f"{code}: prompt too long") as caught:
        generate(script)
    assert len(script.bodies) == 1
    assert caught.value.remedy


def test_attempts_are_bounded_and_the_last_reason_is_told() -> None:
    script = Script(status(500, "first"), status(500, "again"), status(500, "engine dead"))
    with pytest.raises(ServerUnreachableError, match="failed 3 times: HTTP 500: engine dead"):
        generate(script)
    assert len(script.bodies) == 3


def test_a_connection_cut_in_the_middle_is_sent_again() -> None:
    calls = 0

    async def cut(request_body: dict[str, Any]) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionResetError
        return fine(request_body)

    assert generate(cut)[0][0].token_ids[0] == 7
    assert calls == 2


def test_nobody_listening_is_unreachable_with_a_remedy() -> None:
    async def work() -> None:
        async with client_of("http://127.0.0.1:1") as client:
            await client.generate([PROMPT], TEN)

    with pytest.raises(ServerUnreachableError, match=r"127\.0\.0\.1:1") as caught:
        run(work())
    assert "covt serve" in caught.value.remedy


def test_an_aborted_sample_is_sampled_again_under_a_new_key() -> None:
    script = Script(lambda body: completed(body, [7], finish_reason="abort"), fine)

    async def work() -> Any:
        async with serving(script) as url, client_of(url) as client:
            return await client.generate([PROMPT], TEN, hold_latents=True)

    ((completion,),) = run(work())
    keys = [body["sampling_params"]["extra_args"]["latent_key"] for body in script.bodies]
    assert len(set(keys)) == 2
    assert completion.latent_key == f"{keys[1]}/0"


def test_a_completion_of_two_versions_is_sampled_again() -> None:
    spans = [{"version": "3", "start": 0, "end": 1}, {"version": "4", "start": 1, "end": 2}]
    script = Script(
        lambda body: completed(body, [7, 8], versions=spans), lambda body: completed(body, [5], version="4")
    )
    assert generate(script)[0][0].weight_version == 4


def test_an_answer_under_way_during_a_push_is_sampled_again() -> None:
    script = Script(lambda body: completed(body, [7], version="3"), lambda body: completed(body, [8], version="4"))
    assert generate(script, version=4)[0][0].token_ids == (8,)


def test_other_weights_than_the_trainers_are_an_error() -> None:
    with pytest.raises(StaleWeightsError, match="version 3, the trainer is at 4"):
        generate(Script(lambda body: completed(body, [7], version="3")), version=4)


def test_half_loaded_weights_are_an_error() -> None:
    with pytest.raises(StaleWeightsError, match="loading 5"):
        generate(Script(lambda body: completed(body, [7], version="loading 5")))


def test_no_more_requests_at_once_than_allowed() -> None:
    running = most = 0

    async def count(body: dict[str, Any]) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return fine(body)

    generate(count, prompts=[PROMPT] * 20, concurrency=3)
    assert most == 3


def test_requests_go_to_the_least_loaded_replica() -> None:
    counts = [0, 0]

    def replica(index: int, seconds: float) -> Any:
        async def answer(body: dict[str, Any]) -> web.Response:
            counts[index] += 1
            await asyncio.sleep(seconds)
            return fine(body)

        return answer

    async def work() -> None:
        async with (
            serving(replica(0, 0.1)) as slow,
            serving(replica(1, 0.001)) as fast,
            client_of([slow, fast], concurrency=4) as client,
        ):
            await client.generate([PROMPT] * 40, TEN)

    run(work())
    assert counts[1] > 4 * counts[0] > 0


@pytest.mark.parametrize("dead_first", [True, False])
def test_a_dead_replica_is_left_alone_while_another_lives(dead_first: bool) -> None:
    """It refuses at once, so it always has the fewest requests under way."""
    script = Script(fine)

    async def work() -> Any:
        async with serving(script) as alive:
            urls = ["http://127.0.0.1:1", alive] if dead_first else [alive, "http://127.0.0.1:1"]
            async with client_of(urls, attempts=2, concurrency=8) as client:
                return await client.generate([PROMPT] * 40, TEN)

    assert len(run(work())) == len(script.bodies) == 40


def test_a_replica_that_failed_once_is_asked_again_when_it_is_the_only_one() -> None:
    assert generate(Script(status(503), fine, status(503), fine), prompts=[PROMPT] * 2, concurrency=1)


def test_a_dead_server_is_brought_back_once_for_all_requests() -> None:
    alive, calls = False, 0

    async def bring_back() -> None:
        nonlocal alive, calls
        calls += 1
        await asyncio.sleep(0.02)
        alive = True

    def answer(body: dict[str, Any]) -> web.Response:
        return fine(body) if alive else web.json_response({}, status=500)

    groups = generate(answer, prompts=[PROMPT] * 8, attempts=2, on_down=bring_back)
    assert len(groups) == 8
    assert calls == 1


@pytest.mark.parametrize(("deaths", "answered"), [(4, True), (6, False)])
def test_a_server_that_dies_again_is_brought_back_again(deaths: int, answered: bool) -> None:
    """Up to five times for one request."""
    calls = 0

    async def bring_back() -> None:
        nonlocal calls
        calls += 1

    def answer(body: dict[str, Any]) -> web.Response:
        return fine(body) if calls >= deaths else web.json_response({}, status=500)

    if answered:
        assert len(generate(answer, attempts=1, on_down=bring_back)) == 1
    else:
        with pytest.raises(ServerUnreachableError):
            generate(answer, attempts=1, on_down=bring_back)
    assert calls == min(deaths, 5)


def test_a_server_that_comes_back_stale_again_is_given_the_weights_again() -> None:
    calls = 0

    async def restore() -> None:
        nonlocal calls
        calls += 1

    def answer(body: dict[str, Any]) -> web.Response:
        return completed(body, [7], version="4" if calls == 2 else "default")

    assert generate(answer, version=4, on_down=restore)[0][0].weight_version == 4


def test_latents_that_were_lost_with_a_server_are_sampled_again() -> None:
    """The first time the server dies before they are read, the second it is a new one that has none."""
    rows, asked, back = np.ones((2, 4), np.float32), [], 0
    wire = encode_latents(rows)
    entry = {"data": wire["latent_data"], "shape": wire["latent_shape"]}

    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        if request.path != "/collective_rpc":
            return fine(body)
        (key,) = body["args"][0]
        asked.append(key)
        if len(asked) == 1:
            return web.json_response({}, status=500)
        return web.json_response({"results": [{key: None if len(asked) == 2 else [entry]}]})

    async def bring_back() -> None:
        nonlocal back
        back += 1

    async def work() -> Any:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with client_of(f"http://127.0.0.1:{runner.addresses[0][1]}", on_down=bring_back) as client:
                return await client.sample_with_latents(PROMPT, TEN)
        finally:
            await runner.cleanup()

    completions, latents = run(work())
    assert (len(completions), [one.tolist() for one in latents], back) == (1, [rows.tolist()], 1)
    assert len(set(asked)) == 3


def test_the_first_failure_cancels_the_rest() -> None:
    finished = 0

    async def answer(body: dict[str, Any]) -> web.Response:
        nonlocal finished
        if body["token_ids"] == [0]:
            return web.json_response({"error": {"message": "bad"}}, status=400)
        await asyncio.sleep(0.3)
        finished += 1
        return fine(body)

    with pytest.raises(ServerRefusedError):
        generate(answer, prompts=[PromptRequest((number,)) for number in range(4)])
    assert finished == 0


def test_the_api_key_is_sent() -> None:
    async def work() -> list[str]:
        seen: list[str] = []

        async def handle(request: web.Request) -> web.Response:
            seen.append(request.headers.get("Authorization", ""))
            return fine(await request.json())

        app = web.Application()
        app.router.add_post("/inference/v1/generate", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with client_of(f"http://127.0.0.1:{runner.addresses[0][1]}", api_key="secret") as client:
            await client.generate([PROMPT], TEN)
        await runner.cleanup()
        return seen

    assert run(work()) == ["Bearer secret"]


def test_only_latents_that_are_not_the_requests_own_are_salted() -> None:
    rows = np.ones((2, 4), np.float32)
    for fed in (LatentInput(), LatentInput(mode="keep", latents=rows)):
        assert "cache_salt" not in request_body(PROMPT, TEN, None, fed)
    for fed in (LatentInput(mode="zeros"), LatentInput(mode="noise", latents=rows, seed=3)):
        assert request_body(PROMPT, TEN, None, fed)["cache_salt"] == cache_salt(fed.mode, fed.latents, fed.seed)
    salts = {
        request_body(PROMPT, TEN, None, LatentInput(mode="given", latents=rows * scale))["cache_salt"]
        for scale in (1, 2)
    }
    assert len(salts) == 2


def test_sampling_is_spelled_out_so_that_the_checkpoint_cannot_change_it() -> None:
    parameters = request_body(PROMPT, Sampling(max_tokens=5, temperature=0.7), 3, LatentInput())["sampling_params"]
    assert (parameters["top_p"], parameters["top_k"], parameters["repetition_penalty"]) == (1.0, 0, 1.0)
    assert (parameters["temperature"], parameters["seed"], parameters["logprobs"]) == (0.7, 3, 0)


def test_pictures_are_sent_once_each_under_the_name_of_their_content() -> None:
    body = request_body(PromptRequest((1,), (b"\x89PNG1", b"\xff\xd8jpeg", b"\x89PNG1")), TEN, None, LatentInput())
    first, second, third = body["content_parts"]
    assert first["url"].startswith("data:image/png;base64,")
    assert second["url"].startswith("data:image/jpeg;base64,")
    assert first["uuid"] == third["uuid"] != second["uuid"]


@pytest.mark.parametrize("values", [{"n": 0}, {"max_tokens": 0}, {"temperature": -1}, {"n": 2, "temperature": 0}])
def test_senseless_sampling_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(RolloutError):
        Sampling(**({"max_tokens": 4} | values))


def test_malformed_latents_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(ModelError, match="not finite"):
        request_body(PROMPT, TEN, None, LatentInput(mode="given", latents=np.full((1, 2), np.nan, np.float32)))


def test_samplings_must_match_the_prompts() -> None:
    async def work() -> None:
        async with client_of("http://127.0.0.1:1") as client:
            await client.generate([PROMPT, PROMPT], [TEN])

    with pytest.raises(RolloutError, match="2 prompts, 1 samplings"):
        run(work())


def test_latents_are_those_of_the_replica_that_answered() -> None:
    """Another has a part of them, from an attempt that was given up."""
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)

    def holding(latents: np.ndarray) -> Any:
        wire = encode_latents(latents)
        entry = {"data": wire["latent_data"], "shape": wire["latent_shape"]}
        return lambda body: web.json_response({"results": [{key: [entry] for key in body["args"][0]}]})

    async def work() -> Any:
        async with (
            serving(Script(fine)) as url,
            client_of(url) as client,
            serving(holding(rows), "/collective_rpc") as whole,
            serving(holding(rows[:1] + 100), "/collective_rpc") as part,
        ):
            groups = await client.generate([PROMPT], TEN, hold_latents=True)
            taken = []
            for urls in ([whole, part], [part, whole], [part]):
                async with client_of(urls) as replicas:
                    taken += await replicas.take_latents(groups[0])
            return taken

    first, second, third = run(work())
    assert first.tolist() == second.tolist() == rows.tolist()
    assert third is None


def test_the_session_is_closed_with_the_client() -> None:
    async def work() -> aiohttp.ClientSession:
        client = client_of("http://127.0.0.1:1")
        async with client:
            session = client.transport._session
        assert session is not None
        return session

    assert run(work()).closed


def test_a_completion_that_begins_a_span_too_many_ends_there_as_at_its_greatest_length() -> None:
    """The server forces an end behind the start, which no policy has sampled."""
    script = Script(lambda body: completed(body, [7, 100, 101, 101, 102, 100, 5]))
    ((one,),) = generate(script, Sampling(max_tokens=10, max_spans=1))
    assert script.bodies[0]["sampling_params"]["extra_args"]["latent_max_spans"] == 1
    assert one.token_ids == (7, 100, 101, 101, 102, 100)
    assert len(one.logprobs) == 6
    assert one.finish_reason == "length"
    ((other,),) = generate(Script(fine), TEN)
    assert (len(other.token_ids), other.finish_reason) == (6, "stop")
