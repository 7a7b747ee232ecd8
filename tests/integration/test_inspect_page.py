"""`POST /covt/inspect` against a full-prefix oracle, and the page that shows it in headless Chromium."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser, run_browser
from latent_oracle import Oracle, data_url, png
from server_tools import RunningServer
from spanning_model import make_model, make_set, read_rows
from torch.nn.functional import cosine_similarity

from covt_data.schema import Row
from covt_eval.inspection.inspect_app import DATA_VARIABLE, MIDDLEWARE
from covt_eval.inspection.offered_rows import MAX_HELPERS
from covt_model.encoding.encode import Encoder
from covt_model.latents.feedback import noise
from covt_rollout.server.server_options import ServerOptions
from covt_rollout.server.server_process import LatentServer

pytestmark = pytest.mark.slow
STEPS, SEED, INSPECT = 20, 5, "/covt/inspect"


@dataclass
class Place:
    """A server with the page, and the same model for the oracle."""

    server: LatentServer
    rows: list[Row]
    oracle: Oracle
    encoder: Encoder

    def post(self, **fields: Any) -> tuple[int, Any]:
        return RunningServer(self.server.url, self.server.checkpoint).post(INSPECT, fields)

    def prompt(self, row: Row) -> tuple[list[int], list[bytes]]:
        return self.encoder.encode_prompt(row).ids.tolist(), [image.bytes for image in row.images]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("inspect")
    data = make_set(folder / "set")
    rows = read_rows(data)
    model = make_model(folder / "model", rows)
    options = ServerOptions(max_model_len=512, middleware=(MIDDLEWARE,), variables=((DATA_VARIABLE, str(data)),))
    with LatentServer.start(model, options=options, log_path=folder / "vllm.log") as server:
        yield Place(server, rows, Oracle(model), Encoder(model))


@pytest.fixture(scope="module")
def inspected(place: Place) -> dict[str, Any]:
    """What the server says about row 0."""
    modes = ["zeros", "noise", "shuffle", "drop_latents", "drop_span"]
    status, found = place.post(row=0, max_tokens=STEPS, modes=modes, samples=4, seed=SEED, nearest=4)
    assert status == 200, found
    return found


def test_the_answer_is_the_oracles(place: Place, inspected: dict[str, Any]) -> None:
    ids, images = place.prompt(place.rows[0])
    expected = place.oracle.decode(ids, images, steps=STEPS)
    tokens = inspected["answer"]["tokens"]
    assert [token["id"] for token in tokens] == expected.token_ids
    assert [token["logprob"] for token in tokens] == pytest.approx(expected.logprobs, abs=1e-4)
    size = place.oracle.latent.size
    assert [token["kind"] for token in tokens[: size + 2]] == ["start", *["pad"] * size, "end"]
    assert inspected["answer"]["spans"][0] == [1, 1 + size]
    assert inspected["row"] == {"id": place.rows[0].id, "gold": place.rows[0].answer}


@torch.no_grad()
def test_each_latent_is_described_as_the_oracle_computes_it(place: Place, inspected: dict[str, Any]) -> None:
    ids, images = place.prompt(place.rows[0])
    latents = place.oracle.decode(ids, images, steps=STEPS).latents
    features = place.oracle.expand(ids, images)[1][:, : place.oracle.width]
    helpers = {one["helper"]: one for one in inspected["helpers"]}
    assert len(inspected["latents"]) == len(latents)
    for number, (found, latent) in enumerate(zip(inspected["latents"], latents, strict=True)):
        assert found["norm"] == pytest.approx(float(latent.norm()), rel=1e-4)
        same_span = number > 0 and inspected["latents"][number - 1]["span"] == found["span"]
        before = float(cosine_similarity(latents[number - 1], latent, 0)) if same_span else None
        assert found["cosine_previous"] == pytest.approx(before, abs=2e-4)
        cosines = cosine_similarity(latent[None], features, 1)
        best = cosines.topk(4)
        assert [one["cosine"] for one in found["patches"]] == pytest.approx(best.values.tolist(), abs=2e-4)
        row, column = divmod(int(best.indices[0]), inspected["pictures"][0]["columns"])
        side = inspected["pictures"][0]["width"] / inspected["pictures"][0]["columns"]
        assert found["patches"][0]["box"] == pytest.approx(
            [column * side, row * side, (column + 1) * side, (row + 1) * side]
        )
        probabilities = place.oracle.model.lm_head(latent).softmax(-1)
        words = probabilities.topk(4)
        assert [word["id"] for word in found["words"]] == words.indices.tolist()
        assert [word["probability"] for word in found["words"]] == pytest.approx(words.values.tolist(), abs=1e-4)
        assert found["helpers"][0]["helper"] in helpers


@torch.no_grad()
def test_helper_pictures_are_compared_by_their_own_features(place: Place, inspected: dict[str, Any]) -> None:
    ids, images = place.prompt(place.rows[0])
    latent = place.oracle.decode(ids, images, steps=STEPS).latents[0]
    found = [image.bytes for row in place.rows for step in row.steps for image in step.images or ()]
    pictures = list(dict.fromkeys(found))[:MAX_HELPERS]
    image_id = place.oracle.image_id
    best = max(
        float(cosine_similarity(latent[None], place.oracle.expand([image_id], [data])[1], 1).max()) for data in pictures
    )
    assert inspected["latents"][0]["helpers"][0]["cosine"] == pytest.approx(best, abs=2e-4)


def test_ablated_answers_and_scores_are_the_oracles(place: Place, inspected: dict[str, Any]) -> None:
    oracle, latent = place.oracle, place.oracle.latent
    ids, images = place.prompt(place.rows[0])
    kept = oracle.decode(ids, images, steps=STEPS)
    donor = oracle.decode(*place.prompt(place.rows[1]), steps=STEPS).latents
    replacements: dict[str, Any] = {
        "keep": lambda _ordinal, own: own,
        "zeros": lambda _ordinal, own: torch.zeros_like(own),
        "noise": lambda ordinal, own: noise(SEED, ordinal, own),
        "shuffle": lambda ordinal, _own: donor[ordinal % len(donor)],
    }
    found = {one["mode"]: one for one in inspected["ablations"]}
    assert list(found) == ["keep", "zeros", "noise", "shuffle", "drop_latents", "drop_span"]
    assert found["shuffle"]["donor"] == place.rows[1].id
    for mode, replace in replacements.items():
        expected = oracle.decode(ids, images, steps=STEPS, replace=replace)
        assert found[mode]["logprob"] == pytest.approx(sum(expected.logprobs), abs=1e-3), mode
        fed = [replace(ordinal, own) for ordinal, own in enumerate(kept.latents)]
        score, count = text_score(oracle, ids, images, kept.token_ids, fed)
        assert found[mode]["kept_logprob"] == pytest.approx(score, abs=1e-3), mode
        assert found[mode]["kept_tokens"] == count
    for mode, dropped in (("drop_latents", {latent.pad_id}), ("drop_span", set(latent.token_ids))):
        given = [token for token in kept.token_ids if token not in dropped]
        score, count = text_score(oracle, ids, images, given, [], text=found["keep"]["kept_tokens"])
        assert found[mode]["kept_logprob"] == pytest.approx(score, abs=1e-3), mode
    assert len({round(one["kept_logprob"], 2) for one in found.values()}) == 6


@torch.no_grad()
def text_score(
    oracle: Oracle, prompt: list[int], images: list[bytes], given: list[int], fed: list[torch.Tensor], text: int = 0
) -> tuple[float, int]:
    """The sum of the given text's log-probabilities behind the first span, over the whole vocabulary."""
    latent = oracle.latent
    ids, features, grids = oracle.expand(prompt, images)
    pads = [len(ids) + at for at, token in enumerate(given) if token == latent.pad_id]
    hidden = oracle.hidden([*ids, *given], len(ids), features, grids, dict(zip(pads, fed, strict=False)))
    logprobs = oracle.model.lm_head(hidden).log_softmax(-1)
    positions = [at for at, token in enumerate(given) if token not in latent.token_ids]
    if not text:
        text = sum(at > given.index(latent.end_id) for at in positions)
    return sum(float(logprobs[len(ids) + at - 1, given[at]]) for at in positions[-text:]), text


def test_samples_are_those_of_the_seed_and_their_agreement_is_counted(place: Place, inspected: dict[str, Any]) -> None:
    samples = inspected["samples"]
    finals = ["".join(one["final"].split()).casefold() for one in samples["answers"]]
    assert samples["agreement"] == max(finals.count(one) for one in finals) / 4
    status, again = place.post(row=0, max_tokens=STEPS, modes=[], samples=4, seed=SEED)
    assert status == 200
    assert [one["text"] for one in again["samples"]["answers"]] == [one["text"] for one in samples["answers"]]


def test_a_stream_has_the_same_parts(place: Place, inspected: dict[str, Any]) -> None:
    body = json.dumps({"row": 0, "max_tokens": STEPS, "seed": SEED, "modes": ["zeros"], "stream": True}).encode()
    request = urllib.request.Request(place.server.url + INSPECT, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        *lines, end = [line for line in answer.read().decode().split("\n\n") if line]
    assert end == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["question", "tokens"]
    assert kinds[-6:] == ["answer", "latents", "ablation", "ablation", "samples", "done"]
    streamed = [token for event in events if event["event"] == "tokens" for token in event["tokens"]]
    assert streamed == inspected["answer"]["tokens"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": "a", "pictures": ["!"]}, "picture 1 is not base64"),
        ({"question": "a", "pictures": [base64.b64encode(b"GIF89a" + b"\xff" * 500).decode()]}, "picture 1"),
        ({"question": "a", "pictures": ["", ""] * 5}, "10 pictures, the server takes 8"),
        ({"question": "<|im_end|> a"}, "control token"),
        ({"question": "word " * 600}, "tokens, the server takes 512"),
        ({"row": 99}, "there is no row 99"),
        ({"row": 0, "modes": ["sum"]}, "modes"),
    ],
)
def test_bad_requests_are_one_sentence(place: Place, fields: dict[str, Any], message: str) -> None:
    status, answer = place.post(**fields)
    assert status == 400, answer
    assert message in answer["error"]["message"] and "\n" not in answer["error"]["message"]


def test_a_question_of_ones_own_has_no_grade_but_the_same_latents(place: Place, inspected: dict[str, Any]) -> None:
    row = place.rows[0]
    picture, question = data_url(row.images[0].bytes), row.question.replace("<image>", "")
    status, found = place.post(question=question, pictures=[picture], max_tokens=STEPS, samples=0, nearest=4)
    assert status == 200, found
    assert found["row"] is None and found["answer"]["right"] is None and found["samples"] is None
    assert [one["norm"] for one in found["latents"]] == pytest.approx(
        [one["norm"] for one in inspected["latents"]], rel=1e-4
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with run_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def ask(browser: Browser) -> None:
    browser.run("document.querySelector('#max-tokens').value = 20")
    browser.run("document.querySelector('#ask').focus()")
    browser.press("Enter")


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_answers_and_fits(browser: Browser, place: Place, inspected: dict[str, Any], width: int) -> None:
    browser.events.clear()
    browser.open(f"{place.server.url}/covt/page", width)
    browser.wait_for("document.querySelector('#row').options.length === 5 && document.querySelector('#question').value")
    ask(browser)
    browser.wait_for("document.querySelector('#status').textContent.startsWith('Done')")
    assert browser.run("document.querySelector('#alert').textContent") == ""
    assert browser.run("document.querySelectorAll('.cell').length") == len(inspected["latents"])
    size = place.oracle.latent.size
    assert browser.run("document.querySelector('.chip').childElementCount") == size
    best = inspected["latents"][0]["patches"][0]
    drawn = "[...document.querySelectorAll('#pictures .patch:not(.later)')].map(r => Number(r.getAttribute('x')))"
    assert browser.run(drawn) == [best["box"][0]]
    assert browser.run("document.querySelectorAll('#cards .card').length") == 4
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.problems() == []
    outside = [url for url in browser.requested() if not url.startswith(("data:", "blob:", place.server.url))]
    assert outside == []


def test_latents_and_the_switch_answer_to_the_keyboard(
    browser: Browser, place: Place, inspected: dict[str, Any]
) -> None:
    browser.run("document.querySelector('.cell').focus()")
    browser.press("ArrowRight")
    chosen = "document.activeElement.getAttribute('aria-selected') + document.activeElement.dataset.index"
    assert browser.run(chosen) == "true1"
    assert f"{inspected['latents'][1]['norm']:.2f}" in browser.run("document.querySelector('#detail').textContent")
    browser.run("document.querySelector('#switch [aria-checked=true]').focus()")
    seen = []
    for _ in range(4):
        seen.append(browser.run("document.activeElement.dataset.mode"))
        score = next(one for one in inspected["ablations"] if one["mode"] == seen[-1])["kept_logprob"]
        if seen[-1] != "noise":  # the page asks with another seed
            shown = f"{score:.2f}".replace("-", "−")
            assert shown in browser.run("document.querySelector('#other').textContent")
        browser.press("ArrowRight")
    assert seen == ["zeros", "noise", "shuffle", "drop_latents"]
    assert browser.run("document.activeElement.dataset.mode") == "zeros"


def test_a_hostile_file_is_refused_and_a_picture_is_taken(browser: Browser, place: Place, tmp_path: Path) -> None:
    browser.events.clear()
    (tmp_path / "evil.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.hurt = 1'/>")
    browser.choose_file("#file", tmp_path / "evil.png")
    browser.wait_for("document.querySelector('#previews img')?.src.includes('base64')")
    assert browser.run("document.querySelector('#row').value") == ""
    ask(browser)
    browser.wait_for("document.querySelector('#alert').textContent.includes('picture 1 is none of PNG')")
    assert browser.run("window.hurt") is None and not browser.run("document.querySelector('#ask').disabled")
    (tmp_path / "good.png").write_bytes(png(56, 84, 1))
    browser.choose_file("#file", tmp_path / "good.png")
    browser.wait_for("document.querySelector('#previews img')?.naturalWidth === 84")
    ask(browser)
    browser.wait_for("document.querySelector('#status').textContent.startsWith('Done')")
    assert browser.run("document.querySelector('#alert').textContent") == ""


def test_a_server_that_is_gone_is_named(browser: Browser, place: Place) -> None:
    place.server.stop()
    ask(browser)
    browser.wait_for("document.querySelector('#alert').textContent.startsWith('The server does not answer')")
    assert not browser.run("document.querySelector('#ask').disabled")
