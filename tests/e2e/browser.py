"""A real Chromium for the end-to-end tests, and what no page may ever do in it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, Response, async_playwright, expect
from running_gateway import RunningGateway, password

PATIENCE_MS = 10_000
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

expect.set_options(timeout=PATIENCE_MS)


def chromium() -> str:
    """Find a browser, or skip the test with what is missing."""
    candidates = (os.environ.get("CHROMIUM") or "", *_NAMES)
    found = next(filter(None, map(shutil.which, filter(None, candidates))), None)
    if found is None:
        pytest.skip("there is no chromium: install one (apt-get install chromium) or name it in CHROMIUM")
    return found


@dataclass
class Visitor:
    """One page of one user, and everything that it complained of."""

    page: Page
    gateway: RunningGateway
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    urls: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    bearable: str = r"(?!)"

    def listen(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("request", self._request)
        self.page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not re.search(self.bearable, message.text):
            self.complaints.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        self.urls.append(request.url)
        self.hosts.add(urlsplit(request.url).netloc)

    async def _response(self, response: Response) -> None:
        if response.ok and response.request.method == "POST":
            answer = self.gateway.keep(await response.json())
            self.tokens += [answer[name] for name in ("access_token", "refresh_token", "signing_key") if name in answer]

    # ---- what people do

    async def open(self) -> None:
        await self.page.goto(self.gateway.url)
        await expect(self.page.get_by_role("heading", name="Who goes there?")).to_be_visible()

    async def log_in(self, name: str, *, signed: bool = True) -> None:
        await self.present(name)
        await self.open()
        await self.page.get_by_label("User").fill(name)
        await self.page.get_by_label("Password", exact=True).fill(password(name))
        if not signed:
            await self.page.get_by_role("switch", name="Sign every frame").uncheck()
        await self.page.get_by_role("button", name="Log in and connect").click()
        await expect(self.state).to_have_text("Connected, signed" if signed else "Connected")
        await expect(self.page.locator("#workspace")).to_be_visible()

    async def present(self, name: str) -> None:
        """Make one of the usual users, unless it is there."""
        if name in self.gateway.users:
            await self.gateway.add_user(name, self.gateway.users.pop(name))

    async def subscribe(self, channel: str) -> None:
        await self.page.get_by_label("Channel", exact=True).fill(channel)
        await self.page.get_by_role("button", name="Subscribe", exact=True).click()

    async def join(self, channel: str) -> None:
        await self.subscribe(channel)
        await expect(self.page.get_by_role("tab", name=channel, selected=True)).to_be_visible()
        await expect(self.room.get_by_text("offset")).to_be_visible()

    async def publish(self, text: str) -> None:
        line = self.room.get_by_placeholder("Say something, or JSON")
        await line.fill(text)
        await line.press("Enter")

    async def command(self, action: str, channel: str = "", data: str = "") -> None:
        if not await self.page.get_by_label("Action", exact=True).is_visible():
            await self.page.get_by_text("Send any command").click()
        await self.page.get_by_label("Action", exact=True).fill(action)
        await self.page.get_by_label("Action", exact=True).blur()  # which fills in a suggestion
        await self.page.locator("#command-channel").fill(channel)
        await self.page.locator("#command-data").fill(data)
        await self.page.get_by_role("button", name="Send", exact=True).click()

    # ---- what people see

    @property
    def state(self) -> Locator:
        return self.page.locator("#state")

    @property
    def room(self) -> Locator:
        return self.page.get_by_role("tabpanel")

    @property
    def messages(self) -> Locator:
        return self.room.locator(".message .text")

    @property
    def notices(self) -> Locator:
        return self.page.get_by_role("region", name="Notices")

    @property
    def banner(self) -> Locator:
        return self.page.locator("#banner")

    @property
    def wire(self) -> Locator:
        return self.page.locator("#wire > li:visible")

    def on_the_wire(self, text: str | re.Pattern[str]) -> Locator:
        return self.wire.filter(has_text=text).first

    async def check(self) -> None:
        """Hold against the page what no page may do."""
        violations = await self.page.evaluate("window.violations ?? []")
        assert violations == [], "the content security policy was violated"
        assert self.complaints == []
        assert self.hosts <= {urlsplit(self.gateway.url).netloc}, "nothing is loaded from anywhere else"
        assert not any(token in url for token in self.tokens for url in self.urls), "no token stands in a URL"


_WATCH_POLICY = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


@dataclass
class Visitors:
    """Opens pages, each in a browser profile of its own."""

    browser: Browser
    open_ones: list[Visitor] = field(default_factory=list)

    async def come(self, gateway: RunningGateway, **options: Any) -> Visitor:  # noqa: ANN401 - what a context takes
        context = await self.browser.new_context(**{"reduced_motion": "reduce", "locale": "en-GB", **options})
        context.set_default_timeout(PATIENCE_MS)
        await context.add_init_script(_WATCH_POLICY)
        visitor = Visitor(await context.new_page(), gateway)
        visitor.listen()
        self.open_ones.append(visitor)
        return visitor


@contextlib.asynccontextmanager
async def visitors() -> AsyncIterator[Visitors]:
    """Start Chromium; at the end every page must have behaved."""
    path = chromium()
    async with async_playwright() as playwright:
        # Containers have neither user namespaces nor a large /dev/shm; the pages are our own.
        browser = await playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            opened = Visitors(browser)
            yield opened
            for visitor in opened.open_ones:
                await visitor.check()
        finally:
            await browser.close()
