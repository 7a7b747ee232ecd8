"""The report in headless Chromium: it loads without errors and without a network, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, run_browser
from report_run import make_quickstart

from covt_eval.report import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with run_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_quickstart(tmp_path_factory.mktemp("run") / "quickstart")
    return write_report(folder, folder / "report.html")


@pytest.mark.parametrize("width", [1200, 375, 320])
def test_the_page_fits_loads_and_asks_for_nothing(browser: Browser, page: Path, width: int):
    browser.events.clear()
    browser.open(page.as_uri(), width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    pictures = browser.run("[...document.querySelectorAll('image')].map(i => i.getBoundingClientRect().width)")
    assert len(pictures) > 50 and min(pictures) > 10
    sizes = """Promise.all([...document.querySelectorAll('image')].map(i => new Promise(done => {
        const picture = new Image(); picture.onload = () => done(picture.naturalWidth);
        picture.onerror = () => done(0); picture.src = i.href.baseVal; })))"""
    loaded = browser.call("Runtime.evaluate", expression=sizes, awaitPromise=True, returnByValue=True)
    assert min(loaded["result"]["value"]) > 0
    assert browser.problems() == []
    assert [url for url in browser.requested() if not url.startswith(("data:", "file:"))] == []


def test_the_table_sorts_from_the_keyboard(browser: Browser, page: Path):
    browser.open(page.as_uri(), 1200)
    column = browser.run("[...document.querySelectorAll('.sortable th')].findIndex(h => h.textContent === 'right')")
    values = f"[...document.querySelectorAll('.sortable tbody tr')].map(r => Number(r.cells[{column}].dataset.order))"
    before = browser.run(values)
    browser.run(f"document.querySelectorAll('.sortable th button')[{column}].focus()")
    browser.press("Enter")
    assert browser.run(values) == sorted(before, reverse=True) != before
    browser.press("Enter")
    assert browser.run(values) == sorted(before)
    assert browser.run(f"document.querySelectorAll('.sortable th')[{column}].ariaSort") == "ascending"


def test_on_a_phone_the_table_scrolls_under_its_first_column(browser: Browser, page: Path):
    browser.open(page.as_uri(), 375)
    places = (
        "[0, 3].map(n => document.querySelectorAll('#scores tbody tr:first-child td')[n].getBoundingClientRect().left)"
    )
    first, fourth = browser.run(places)
    assert browser.run("document.querySelector('#scores .wide').tabIndex") == 0
    browser.run("document.querySelector('#scores .wide').scrollLeft = 60")
    assert browser.run(places) == [first, fourth - 60]


def test_charts_and_cards_answer_to_the_keyboard(browser: Browser, page: Path):
    browser.open(page.as_uri(), 1200)
    browser.run("document.querySelector('.area').focus()")
    first = browser.run("document.querySelector('.readout').textContent")
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('.readout').textContent") != first != ""
    browser.run("document.querySelector('button.answer[aria-pressed=false]').focus()")
    key = browser.run("document.activeElement.dataset.key")
    browser.press("Enter")
    assert browser.run("document.querySelector('.card .overlay.on').dataset.key") == key
