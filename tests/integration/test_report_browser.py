"""The report in headless Chromium: it loads without errors and without a network, on a desk and on a phone."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_run import make_quickstart

from covt_eval.report import write_report

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


class Browser:
    """One tab, driven over the DevTools protocol; `events` are what the page logged, raised and requested."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    @staticmethod
    def address(port: int) -> str:
        """Where the only tab is driven from."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = json.load(answer)
                break
            except OSError:
                assert time.monotonic() < deadline, "Chromium did not start"
                time.sleep(0.2)
        return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def run(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, page: Path, width: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 700
        )
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + 60
        while self.run("document.readyState") != "complete" or self.run("location.protocol") != "file:":
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=13 if text else 0, **text
            )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    websockets = pytest.importorskip("websockets.sync.client")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path")
    profile = tmp_path_factory.mktemp("profile")
    line = [CHROMIUM, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + 60
        while not port_file.is_file() or not port_file.read_text().strip():
            assert process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.1)
        address = Browser.address(int(port_file.read_text().splitlines()[0]))
        with websockets.connect(address, max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_quickstart(tmp_path_factory.mktemp("run") / "quickstart")
    return write_report(folder, folder / "report.html")


@pytest.mark.parametrize("width", [1200, 375, 320])
def test_the_page_fits_loads_and_asks_for_nothing(browser: Browser, page: Path, width: int):
    browser.events.clear()
    browser.open(page, width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    pictures = browser.run("[...document.querySelectorAll('image')].map(i => i.getBoundingClientRect().width)")
    assert len(pictures) > 50 and min(pictures) > 10
    sizes = """Promise.all([...document.querySelectorAll('image')].map(i => new Promise(done => {
        const picture = new Image(); picture.onload = () => done(picture.naturalWidth);
        picture.onerror = () => done(0); picture.src = i.href.baseVal; })))"""
    loaded = browser.call("Runtime.evaluate", expression=sizes, awaitPromise=True, returnByValue=True)
    assert min(loaded["result"]["value"]) > 0
    bad = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in bad] == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []


def test_the_table_sorts_from_the_keyboard(browser: Browser, page: Path):
    browser.open(page, 1200)
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
    browser.open(page, 375)
    places = (
        "[0, 3].map(n => document.querySelectorAll('#scores tbody tr:first-child td')[n].getBoundingClientRect().left)"
    )
    first, fourth = browser.run(places)
    assert browser.run("document.querySelector('#scores .wide').tabIndex") == 0
    browser.run("document.querySelector('#scores .wide').scrollLeft = 60")
    assert browser.run(places) == [first, fourth - 60]


def test_charts_and_cards_answer_to_the_keyboard(browser: Browser, page: Path):
    browser.open(page, 1200)
    browser.run("document.querySelector('.area').focus()")
    first = browser.run("document.querySelector('.readout').textContent")
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('.readout').textContent") != first != ""
    browser.run("document.querySelector('button.answer[aria-pressed=false]').focus()")
    key = browser.run("document.activeElement.dataset.key")
    browser.press("Enter")
    assert browser.run("document.querySelector('.card .overlay.on').dataset.key") == key
