"""The page at `/`: what is served, with which headers, and that nothing in it reaches out to anywhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gateway.web.page import CONTENT_SECURITY_POLICY, MEDIA_TYPES, page_router

FOLDER = Path(__file__).resolve().parents[2] / "gateway" / "web" / "page"
TEXTS = {name: (FOLDER / name).read_text(encoding="utf-8") for name in MEDIA_TYPES}


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(page_router())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gate.test") as client:
        yield client


async def test_page_comes_with_a_policy_that_lets_nothing_else_run_or_load(browser: httpx.AsyncClient) -> None:
    response = await browser.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    directives = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", sorted(MEDIA_TYPES))
async def test_every_file_is_served_with_its_type(browser: httpx.AsyncClient, name: str) -> None:
    response = await browser.get(f"/page/{name}")
    assert (response.status_code, response.text) == (200, TEXTS[name])
    assert response.headers["content-type"] == MEDIA_TYPES[name]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_every_file_of_the_folder_is_in_the_table() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == set(MEDIA_TYPES)


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/nothing.js", "/page/../page.py", "/page/%2e%2e%2fpage.py", "/page/..%5cpage.py", "/page/page.py"],
)
async def test_no_path_leads_to_any_other_file(browser: httpx.AsyncClient, path: str) -> None:
    assert (await browser.get(path)).status_code == 404


async def test_unchanged_file_is_not_sent_again(browser: httpx.AsyncClient) -> None:
    first = await browser.get("/page/page.js")
    again = await browser.get("/page/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await browser.get("/page/page.js", headers={"If-None-Match": '"another"'})
    assert other.status_code == 200


async def test_head_is_answered_without_a_body(browser: httpx.AsyncClient) -> None:
    response = await browser.head("/")
    assert (response.status_code, response.content) == (200, b"")


def test_markup_has_no_inline_script_style_or_handler() -> None:
    html = TEXTS["index.html"]
    assert re.findall(r"<script(?![^>]*\bsrc=)", html) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", html) == []


def test_every_reference_stays_on_this_host_and_exists() -> None:
    references = re.findall(r'(?:src|href)="([^"#]+)"', TEXTS["index.html"])
    assert {reference for reference in references if not reference.startswith("page/")} == {"metrics", "readyz", "docs"}
    for reference in references:
        assert not reference.startswith("page/") or reference.removeprefix("page/") in MEDIA_TYPES
    for name, text in TEXTS.items():
        for module in re.findall(r'^import .* from "([^"]+)"|\bimport\("([^"]+)"\)', text, re.MULTILINE):
            assert (module[0] or module[1]).removeprefix("./") in MEDIA_TYPES or name == "portcullis.js"


def test_nothing_names_another_host() -> None:
    allowed = {"http://www.w3.org/2000/svg", "https://gate.example"}  # a name space, and an example in a comment
    for text in TEXTS.values():
        assert set(re.findall(r"(?:https?|wss?)://[\w./-]+", text)) <= allowed


def test_scripts_write_text_and_never_markup_or_code() -> None:
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|sessionStorage|cookie"
    )
    for name, text in TEXTS.items():
        if name.endswith(".js"):
            assert sinks.findall(text) == [], name


def test_client_module_stands_alone() -> None:
    statements = re.sub(r"^\s*//.*$", "", TEXTS["portcullis.js"], flags=re.MULTILINE)
    assert re.findall(r"\bimport\s*[{(*'\"]|\bimport\s\w|\brequire\(", statements) == []


# ------------------------------------------------------------------------------------------------ reading it


def colours() -> dict[str, tuple[str, str]]:
    return {
        name: (light, dark)
        for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", TEXTS["page.css"])
    }


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


TEXT_ON = [
    ("ink", "paper"),
    ("ink", "card"),
    ("ink", "raised"),
    ("ink", "accent-wash"),
    ("ink", "warn-wash"),
    ("ink", "bad-wash"),
    ("soft", "paper"),
    ("soft", "card"),
    ("soft", "raised"),
    ("soft", "accent-wash"),
    ("soft", "bad-wash"),
    ("accent", "card"),
    ("accent", "paper"),
    ("accent", "accent-wash"),
    ("on-accent", "accent"),
    ("good", "card"),
    ("good", "paper"),
    ("good", "raised"),
    ("warn", "card"),
    ("warn", "paper"),
    ("warn", "raised"),
    ("bad", "card"),
    ("bad", "bad-wash"),
    ("incoming", "card"),
    ("incoming", "raised"),
]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT_ON)
def test_text_can_be_read_in_both_themes(text: str, ground: str, theme: int) -> None:
    assert contrast(colours()[text][theme], colours()[ground][theme]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_borders_of_controls_can_be_seen(theme: int) -> None:
    for ground in ("paper", "card"):
        assert contrast(colours()["field"][theme], colours()[ground][theme]) >= 3
