"""The page is one file: nothing in it asks for another, and its policy lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import re

from covt_eval.inspection.inspect_page import POLICY, page_html


def test_the_page_names_no_other_file() -> None:
    html = page_html()
    assert "/*STYLE*/" not in html and "/*SCRIPT*/" not in html
    addresses = set(re.findall(r"[a-z]+://[^\s\"')]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert re.findall(r"<(?:script|link|img|iframe|object|embed)\b[^>]*(?:src|href)=\"(?!data:)", html) == []
    assert "innerHTML" not in html and "eval(" not in html


def test_the_policy_allows_this_script_alone() -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page_html(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'") and "connect-src 'self'" in POLICY


def test_controls_have_names() -> None:
    html = page_html()
    for control in re.findall(r"<(?:input|select|textarea)\b[^>]*>", html):
        (name,) = re.findall(r'id="([^"]+)"', control)
        wrapped = re.search(rf"<label>[^<]*<input id=\"{name}\"", html)
        assert wrapped or f'for="{name}"' in html, name
