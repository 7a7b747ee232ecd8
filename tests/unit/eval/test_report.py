"""The page as a whole: complete, self-contained, safe, and honest about what a folder doesn't hold."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_run import make_plain_run, make_quickstart, write_json

from covt_eval.report import ReportError, write_report
from covt_eval.report.content.run_files import read_run
from covt_eval.report.sections.headline import headline
from covt_eval.report.sections.scores import category_table, scores_table

VOID = {"meta", "link", "br", "image", "rect", "circle", "polyline", "line", "path"}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; fails on tags that don't match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def count(self, tag: str, name: str) -> int:
        return sum(1 for found, attrs in self.tags if found == tag and name in (attrs.get("class") or "").split())


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_quickstart(tmp_path_factory.mktemp("trace"), n_test=200)


@pytest.fixture(scope="module")
def page(quickstart: Path) -> Page:
    return Page(write_report(quickstart, quickstart / "report.html").read_text(encoding="utf-8"))


def report(folder: Path) -> Page:
    return Page(write_report(folder, folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_holds_every_part(page: Page, quickstart: Path) -> None:
    for words in (
        "Latents beat pause tokens by",
        "Pause tokens",
        "Shuffled",
        "chance 6.2 %",
        "Rewards by name",
        "Necessity ν",
    ):
        assert words in page.text
    for words in (
        "Accuracy by number of hops",
        "Alignment to the helper images",
        "Where the time went",
        "necessity.mode",
    ):
        assert words in page.text
    assert page.count("article", "card") == 12
    assert sum(1 for tag, _ in page.tags if tag == "image") == 12 * 9  # a picture and eight helper images each
    assert page.count("rect", "patch") == 12 * 8
    assert "✗" not in page.text.split("Gold answer")[0]


def test_differences_of_models_and_of_ablations_stand_apart(page: Page) -> None:
    assert (
        page.text.index("Stage 2 − pause") < page.text.index("Do the latents matter?") < page.text.index("Kept − zeros")
    )
    assert "+72.0" in page.text


def test_the_settings_of_each_run_are_shown(page: Page) -> None:
    settings = page.text.split("Settings")[-1]
    assert re.search("Reinforcement learning algorithm kl 0.01 clip 0.2", settings)


def test_a_comparison_says_when_accuracy_was_not_recorded(tmp_path: Path) -> None:
    folder = make_quickstart(tmp_path, n_test=20, n_samples=1)
    path = folder / "sft" / "latent" / "metrics.jsonl"
    path.write_text(path.read_text().replace("eval/accuracy", "other"))
    assert "records no eval/accuracy" in report(folder).text


def test_nothing_on_the_page_points_outside_it(page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("href", "src", "xlink:href", "action", "srcset", "data"):
            value = attrs.get(name)
            assert (
                value is None or value.startswith(("#", "data:image/png;base64,")) or (tag, value) == ("link", "data:,")
            )
        assert not any(name.startswith("on") for name in attrs)


def test_no_raw_marker_reaches_the_reader(page: Page) -> None:
    assert "<|" not in page.text
    assert "8 latents" in page.text
    assert page.count("span", "chip") == 12


def test_answers_can_be_put_on_the_map_from_the_keyboard(page: Page) -> None:
    answers = [attrs for tag, attrs in page.tags if tag == "button" and attrs.get("class") == "answer"]
    overlays = [attrs["data-key"] for tag, attrs in page.tags if tag == "g"]
    assert len(answers) == 12 * (6 + 4)  # six models, four ablations
    assert [attrs["data-key"] for attrs in answers] == overlays
    assert (page.count("g", "overlay"), page.count("g", "on")) == (len(overlays), 12)
    assert sum(1 for attrs in answers if attrs["aria-pressed"] == "true") == 12


def test_vsp_shows_both_baselines_and_draws_plans(tmp_path: Path) -> None:
    page = report(make_quickstart(tmp_path, task="vsp", n_test=60))
    assert "ignoring the holes 63.0 %" in page.text
    assert any(tag == "polyline" and "bad" in (attrs.get("class") or "") for tag, attrs in page.tags)


def test_text_from_the_run_cannot_become_markup(tmp_path: Path) -> None:
    folder = make_quickstart(tmp_path, n_test=20, n_samples=1)
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    for path in (folder / "eval").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "text": attack, "answer": attack}) + "\n" for row in rows))
    samples = json.loads((folder / "samples" / "samples.json").read_text())
    write_json(folder / "samples" / "samples.json", [{**samples[0], "question": attack}])
    summary = json.loads((folder / "summary.json").read_text())
    summary.update(task=attack, settings={attack: {attack: attack}}, seconds={attack: 3.0}, baseline={attack: 0.5})
    write_json(folder / "summary.json", summary)
    with (folder / "rl" / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 41, f"rewards/{attack}/mean": 0.5, attack: 1.0}) + "\n")
    page = report(folder)
    assert sum(1 for tag, _ in page.tags if tag == "script") == 1
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "alert(1)" in page.text


def test_pictures_outside_the_run_folder_are_not_read(tmp_path: Path) -> None:
    folder = make_quickstart(tmp_path / "run", n_test=20, n_samples=1)
    (folder / "samples" / "trace-test-000000.png").rename(tmp_path / "secret.png")
    samples = json.loads((folder / "samples" / "samples.json").read_text())
    write_json(folder / "samples" / "samples.json", [{**samples[0], "image": "../secret.png"}])
    page = report(folder)
    assert "lies outside the run folder" in page.text
    assert sum(1 for tag, _ in page.tags if tag == "image") == 8


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("samples/samples.json", "no rows are shown"),
        ("rl/metrics.jsonl", "there are no reward curves"),
        ("summary.json", "models aren't compared"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, missing: str, note: str) -> None:
    folder = make_quickstart(tmp_path, n_test=20, n_samples=1)
    (folder / missing).unlink()
    assert note in report(folder).text


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = make_quickstart(tmp_path, n_test=20, n_samples=1)
    with (folder / "rl" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 41, "rew')
    (folder / "samples" / "trace-test-000000.png").write_bytes(b"no picture")
    (folder / "samples" / "samples.json").write_text((folder / "samples" / "samples.json").read_text())
    text = report(folder).text
    assert "rl/metrics.jsonl: 1 damaged line(s) left out (line 41)" in text
    assert "samples/trace-test-000000.png can't be read" in text
    assert "Rewards by name" in text


@pytest.mark.parametrize(("kind", "words"), [("sft", "Cross-entropy"), ("rl", "Rewards by name")])
def test_a_single_training_run_gives_a_report(tmp_path: Path, kind: str, words: str) -> None:
    text = report(make_plain_run(tmp_path, kind)).text
    assert words in text
    assert "betas" in text
    assert "Which model answers right" not in text
    assert ("How it was trained" in text) == (kind == "sft")


def test_the_headline_of_a_training_run_says_how_far_it_came(tmp_path: Path) -> None:
    first, _ = headline(read_run(make_plain_run(tmp_path)))
    assert re.fullmatch(r"Accuracy went from \d+\.\d\s% to 9\d\.\d\s% in 700 steps", first)


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        ({"value": 0.326, "lo": 0.28, "hi": 0.37}, "Latents beat pause tokens by 32.6 points"),
        ({"value": 0.01, "lo": -0.02, "hi": 0.04}, "No measurable difference"),
        ({"value": -0.05, "lo": -0.08, "hi": -0.02}, "Latents fall 5.0 points short"),
    ],
)
def test_the_headline_claims_only_what_the_interval_allows(tmp_path: Path, gap: dict, words: str) -> None:
    summary = {"n_test": 600, "accuracy": {"pause": 0.6, "stage2": 0.7}, "ci": {"differences": {"stage2-pause": gap}}}
    write_json(tmp_path / "summary.json", summary)
    assert headline(read_run(tmp_path))[0].startswith(words)


def test_bypassed_latents_are_called_that(tmp_path: Path) -> None:
    write_json(
        tmp_path / "summary.json", {"accuracy": {"rl": 0.7}, "ablation": {"keep": 0.7, "zeros": 0.69, "noise": 0.2}}
    )
    second = headline(read_run(tmp_path))[1].replace("\N{NO-BREAK SPACE}", " ")
    assert "zeroed, accuracy is 69.0 % instead of 70.0 %: the answer hardly depends" in second


def test_a_folder_that_is_no_run_is_refused_with_a_remedy(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ReportError) as caught:
            write_report(folder, tmp_path / "report.html")
        assert "give the folder of a run" in caught.value.remedy
    assert not (tmp_path / "report.html").exists()


def test_nothing_half_written_stays_when_the_page_cannot_be_written(tmp_path: Path) -> None:
    folder = make_plain_run(tmp_path / "run")
    target = tmp_path / "out" / "report.html"
    target.mkdir(parents=True)
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(folder, target)
    assert list(target.parent.iterdir()) == [target]


def test_the_content_policy_allows_this_script_and_no_other(page: Page) -> None:
    policy = next(attrs["content"] or "" for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='$", policy)


def test_what_an_evaluation_leaves_is_a_report_of_its_own(tmp_path: Path) -> None:
    quickstart = make_quickstart(tmp_path / "quickstart", n_test=30, n_samples=2)
    folder = tmp_path / "eval"
    folder.mkdir()
    for name in ("rl.keep.jsonl", "rl.zeros.jsonl"):
        (folder / f"tiny.trace.{name.split('.')[1]}.jsonl").write_text((quickstart / "eval" / name).read_text())
    write_json(folder / "summary.json", {"schema_version": 1, "results": [], "settings": {"split": "validation"}})
    html = write_report(folder, folder / "report.html").read_text()
    assert "tiny.trace answers" in html and 'class="sortable"' in html
    assert "Pause tokens" not in html
    assert "validation" in html and "holds settings" not in html


def test_an_evaluation_is_shown_by_category(tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    folder.mkdir()
    kinds = ["creation", "creation", "creation", "update"]
    lines = [{"id": str(n), "category": kind, "correct": int(n > 0)} for n, kind in enumerate(kinds)]
    write_json(folder / "summary.json", {"schema_version": 1, "results": []})
    (folder / "m.comt.keep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = category_table(read_run(folder))
    assert table is not None
    shown = [(row[2].text, row[3].order, pytest.approx(row[4].order)) for row in table.rows]
    assert shown == [("creation", 3, 2 / 3), ("update", 1, 1.0)]
    assert "By category" in write_report(folder, folder / "report.html").read_text()


def test_runs_are_put_side_by_side_under_the_names_that_tell_them_apart(tmp_path: Path) -> None:
    runs = [make_plain_run(tmp_path / name / "latent") for name in ("a", "b")]
    html = write_report(runs, tmp_path / "both.html").read_text()
    assert "a/latent · b/latent" in html
    assert 'data-name="a/latent"' in html and 'data-name="b/latent"' in html
    with pytest.raises(ReportError, match="same folder twice"):
        write_report([runs[0], runs[0]], tmp_path / "both.html")


def test_the_table_holds_every_evaluation_with_its_share(tmp_path: Path) -> None:
    folder = make_quickstart(tmp_path / "quickstart", n_test=40, n_samples=1)
    table = scores_table(read_run(folder))
    assert table is not None and len(table.rows) == 10
    for row in table.rows:
        assert row[0].text and 0 <= float(row[3].order) <= 1
    names = [name for name, _ in table.head]
    lines = [json.loads(line) for line in (folder / "eval" / "rl.zeros.jsonl").read_text().splitlines()]
    zeros = next(row for row in table.rows if (row[0].text, row[1].text) == ("Latents + RL", "Zeros"))
    assert zeros[names.index("right")].order == pytest.approx(sum(line["correct"] for line in lines) / 40)
    assert "median seconds" not in names  # nothing recorded it


def test_the_patches_that_latents_resemble_are_outlined(tmp_path: Path) -> None:
    folder = make_quickstart(tmp_path / "quickstart", n_test=20, n_samples=1)
    path = folder / "samples" / "samples.json"
    samples = json.loads(path.read_text())
    picture = samples[0]["image"]
    samples[0]["nearest"] = [{"picture": picture, "what": "picture", "box": [28, 0, 56, 28], "cosine": 0.75}] * 3
    write_json(path, samples)
    html = write_report(folder, folder / "report.html").read_text()
    assert html.count('aria-label="Latent ') == 3 and "1: picture 0.75" in html
    assert 'x="28.0" y="0.0" width="28.0" height="28.0"' in html
