"""The page at `/` in a real Chromium, against a real gateway: what people do with it, and what they see."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Visitors, visitors
from playwright.async_api import Page, expect
from running_gateway import RunningGateway, password, run_gateway
from secret_watch import SecretWatch

pytestmark = pytest.mark.e2e

ROOM = "room:acme:1"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
SERVER_AWAY = r"ERR_CONNECTION_REFUSED|WebSocket connection to .* failed|503"
Start = Callable[..., Any]


def in_development(
    tmp_path: Path,
    secret_watch: SecretWatch,
    **options: Any,  # noqa: ANN401 - what `run_gateway` takes
) -> contextlib.AbstractAsyncContextManager[RunningGateway]:
    """Serve a gateway that has the page."""
    (tmp_path / "data").mkdir(mode=0o700, exist_ok=True)
    return run_gateway(tmp_path, secret_watch, environment="development", **options)


@pytest.fixture
async def start(tmp_path: Path, secret_watch: SecretWatch) -> AsyncIterator[Start]:
    """Start a gateway in development mode, with settings of the test's own."""
    async with contextlib.AsyncExitStack() as stack:

        async def start_one(**options: Any) -> RunningGateway:  # noqa: ANN401 - what `run_gateway` takes
            return await stack.enter_async_context(in_development(tmp_path, secret_watch, **options))

        yield start_one


@pytest.fixture
async def gateway(start: Start) -> RunningGateway:
    return await start()


@pytest.fixture
async def guests() -> AsyncIterator[Visitors]:
    async with visitors() as opened:
        yield opened


# ------------------------------------------------------------------------------------------------ the main road


@pytest.mark.parametrize("signed", [True, False])
async def test_what_one_publishes_another_sees(guests: Visitors, gateway: RunningGateway, signed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    alice, bob = await guests.come(gateway), await guests.come(gateway)
    await alice.log_in("alice", signed=signed)
    await bob.log_in("bob")
    await alice.join(ROOM)
    await bob.join(ROOM)
    await alice.publish("Grüezi 🏰")
    await expect(bob.messages).to_have_text(["Grüezi 🏰"])
    await expect(alice.messages).to_have_text(["Grüezi 🏰"])
    await bob.publish('{"order": 1, "lines": [2, 3]}')
    await expect(alice.messages.last).to_have_text('{"order":1,"lines":[2,3]}')
    await expect(alice.room.locator(".message.own")).to_have_count(1)


async def test_history_is_there_when_one_comes_later(guests: Visitors, gateway: RunningGateway) -> None:
    peer = await gateway.peer("bob")
    for number in range(1, 4):
        await peer.do("channel.publish", ROOM, {"text": f"number {number}"})
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    await alice.join(ROOM)
    await expect(alice.messages).to_have_text(["number 1", "number 2", "number 3"])
    await peer.do("channel.publish", ROOM, {"text": "number 4"})
    await expect(alice.messages).to_have_text(["number 1", "number 2", "number 3", "number 4"])


async def test_present_ones_are_shown_as_they_come_and_go(guests: Visitors, gateway: RunningGateway) -> None:
    alice, bob = await guests.come(gateway), await guests.come(gateway)
    await alice.log_in("alice")
    await bob.log_in("bob")
    await alice.join(ROOM)
    people = alice.room.get_by_role("list", name="Present")
    await expect(people.get_by_role("listitem")).to_have_text(["alice"])
    await bob.join(ROOM)
    await expect(people.get_by_role("listitem")).to_have_text(["alice", "bob"])
    await expect(alice.room.get_by_text("bob came in")).to_be_visible()
    await bob.room.get_by_role("button", name="Unsubscribe").click()
    await expect(people.get_by_role("listitem")).to_have_text(["alice"])
    await expect(bob.page.get_by_text("No channel yet.")).to_be_visible()


async def test_session_shows_who_one_is_and_what_one_may(guests: Visitors, gateway: RunningGateway) -> None:
    vera = await guests.come(gateway)
    await vera.log_in("vera")
    session = vera.page.get_by_role("region", name="Session")
    await expect(session.get_by_role("list", name="Roles")).to_have_text("viewer")
    await expect(session.locator("#subject")).to_have_text("vera")
    await expect(session.locator("#protocol")).to_have_text("gateway.v1.json.signed")
    await expect(session.locator("#expires")).to_have_text(re.compile(r"in 1[45] min"))
    await vera.join(ROOM)
    permitted = session.get_by_role("list", name="Permitted actions")
    await expect(permitted).to_contain_text("channel.subscribe")
    await expect(permitted).not_to_contain_text("channel.publish")


# ------------------------------------------------------------------------------------------------ refusals


async def test_wrong_password_is_told_at_the_form(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    alice.bearable = r"status of 400"
    await alice.present("alice")
    await alice.open()
    await alice.page.get_by_label("User").fill("alice")
    await alice.page.get_by_label("Password", exact=True).fill("not the password")
    await alice.page.get_by_role("button", name="Log in and connect").click()
    await expect(alice.page.get_by_role("alert")).to_contain_text("Wrong user or password")
    await expect(alice.page.get_by_label("Password", exact=True)).to_be_focused()


async def test_what_is_not_allowed_is_said_beforehand_and_refused_all_the_same(
    guests: Visitors, gateway: RunningGateway
) -> None:
    vera = await guests.come(gateway)
    await vera.log_in("vera")
    await vera.join(ROOM)
    publish = vera.room.get_by_role("button", name="Publish")
    await expect(publish).to_have_attribute("aria-disabled", "true")
    await expect(vera.room.get_by_text("The policy does not let you publish")).to_be_visible()
    await vera.publish("let me in")
    await vera.command("channel.publish", ROOM, '{"text": "let me in"}')
    await expect(vera.notices).to_contain_text("permission_denied")
    await expect(vera.notices).to_contain_text("The policy does not allow this")
    await expect(vera.on_the_wire("permission_denied")).to_contain_text("channel.publish")
    await vera.notices.get_by_role("button", name="Dismiss").click()
    await expect(vera.notices).to_be_empty()
    await vera.page.get_by_label("Channel", exact=True).fill("room:umbrella:1")
    await expect(vera.page.locator("#subscribe-why")).to_contain_text("does not let you subscribe to room:umbrella:1")
    await vera.subscribe("room:umbrella:1")
    await expect(vera.notices).to_contain_text("subscribe to room:umbrella:1")
    assert await vera.messages.count() == 0


async def test_rule_that_wants_signatures_is_explained_and_met(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.log_in("alice", signed=False)
    await alice.command("channel.publish", "signed:acme:1", "1")
    await expect(alice.notices).to_contain_text("signature_required")
    await alice.page.get_by_role("switch", name="Signed frames").check()
    await expect(alice.state).to_have_text("Connected, signed")
    await alice.command("channel.publish", "signed:acme:1", "1")
    await expect(alice.on_the_wire("reply")).to_contain_text("channel.publish")


async def test_data_that_is_no_json_is_told_and_not_sent(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    await alice.command("channel.publish", ROOM, "{not json")
    await expect(alice.page.locator("#command-why")).to_contain_text("no JSON")
    await alice.join(ROOM)
    await alice.publish("{not json")
    await expect(alice.room.get_by_text("begins like JSON")).to_be_visible()
    await expect(alice.messages).to_have_count(0)


async def test_permission_that_is_taken_away_is_told_at_once(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    await alice.join(ROOM)
    await gateway.gateway.identity.accounts.set_roles("alice", ["operator"])
    await expect(alice.notices).to_contain_text("permission_revoked")
    await expect(alice.page.get_by_text("No channel yet.")).to_be_visible()


# ------------------------------------------------------------------------------------------------ closes and coming back


async def test_dropped_line_comes_back_with_what_was_missed(guests: Visitors, gateway: RunningGateway) -> None:
    peer = await gateway.peer("bob")
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    await alice.join(ROOM)
    await peer.do("channel.publish", ROOM, {"text": "before"})
    await expect(alice.messages).to_have_text(["before"])
    await alice.page.get_by_role("button", name="Drop line").click()
    await peer.do("channel.publish", ROOM, {"text": "meanwhile"})
    await expect(alice.room.get_by_text("1 missed and recovered")).to_be_visible()
    await peer.do("channel.publish", ROOM, {"text": "after"})
    await expect(alice.messages).to_have_text(["before", "meanwhile", "after"])
    await expect(alice.room.locator(".message", has_text="meanwhile").get_by_text("recovered")).to_be_visible()
    await expect(alice.on_the_wire("1006")).to_be_visible()
    await expect(alice.banner).to_be_hidden()


async def test_restart_of_the_server_is_survived(guests: Visitors, tmp_path: Path, secret_watch: SecretWatch) -> None:
    async with contextlib.AsyncExitStack() as first_life:
        first = await first_life.enter_async_context(in_development(tmp_path, secret_watch))
        alice = await guests.come(first)
        alice.bearable = SERVER_AWAY
        await alice.log_in("alice")
        await alice.join(ROOM)
        await alice.publish("before")
        await expect(alice.messages).to_have_text(["before"])
        await first_life.aclose()
    await expect(alice.banner).to_contain_text(re.compile("Closed with|No connection"))
    await expect(alice.on_the_wire(re.compile("1001 draining"))).to_contain_text("going away")
    second = in_development(tmp_path, secret_watch, users={}, port=first.port)
    async with second:
        await expect(alice.state).to_have_text("Connected, signed")
        await expect(alice.room.get_by_text("messages may be missing")).to_be_visible()
        await alice.publish("after")
        await expect(alice.messages).to_have_text(["before", "after"])
        await alice.page.get_by_role("button", name="Disconnect").click()
        await expect(alice.state).to_have_text("Disconnected")


async def test_ended_session_is_explained_and_leads_back_to_the_login(
    guests: Visitors, gateway: RunningGateway
) -> None:
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    await gateway.gateway.identity.accounts.disable("alice")
    await expect(alice.banner).to_contain_text("1008 session_revoked")
    await expect(alice.banner).to_contain_text("An operator ended this session")
    await expect(alice.on_the_wire("1008 session_revoked")).to_contain_text("does not come back by itself")
    await alice.page.get_by_role("button", name="Log in again").click()
    await expect(alice.page.get_by_label("User")).to_be_focused()
    await expect(alice.state).to_have_text("Not connected")


async def test_full_server_is_tried_again_until_there_is_room(guests: Visitors, start: Start) -> None:
    gateway = await start(max_connections_per_user="1")
    first = await gateway.peer("alice")
    alice = await guests.come(gateway)
    await alice.open()
    await alice.page.get_by_label("User").fill("alice")
    await alice.page.get_by_label("Password", exact=True).fill(password("alice"))
    await alice.page.get_by_role("button", name="Log in and connect").click()
    await expect(alice.banner).to_contain_text("1013 connection_limit")
    await first.socket.close()
    await expect(alice.state).to_have_text("Connected, signed")


async def test_disconnecting_and_connecting_again_keeps_the_channels(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    await alice.join(ROOM)
    await alice.page.get_by_role("button", name="Disconnect").click()
    await expect(alice.state).to_have_text("Disconnected")
    await expect(alice.room.get_by_text("There is no connection now.")).to_be_visible()
    await alice.page.get_by_role("button", name="Connect", exact=True).click()
    await expect(alice.state).to_have_text("Connected, signed")
    await expect(alice.room.get_by_text("nothing missed")).to_be_visible()


async def test_short_lived_token_is_renewed_without_a_break(guests: Visitors, start: Start) -> None:
    gateway = await start(access_token_ttl_s="3")
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    for _ in range(2):
        await expect(alice.on_the_wire(re.compile(r"reply.*session\.refresh"))).to_be_visible()
        await alice.page.get_by_role("button", name="Clear").click()
    await expect(alice.state).to_have_text("Connected, signed")
    assert alice.tokens
    content = await alice.page.content()
    assert not any(token in content for token in alice.tokens), "no token is ever shown"


# ------------------------------------------------------------------------------------------------ the wire


async def test_frames_can_be_opened_and_filtered(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    await alice.command("session.describe")
    await expect(alice.on_the_wire(re.compile("reply.*session.describe"))).to_be_visible()
    await alice.page.get_by_label("Show", exact=True).select_option("command")
    await expect(alice.wire.filter(has_text="reply")).to_have_count(0)
    await alice.page.get_by_label("Filter").fill("session.describe")
    await expect(alice.wire).to_have_count(1)
    await alice.wire.locator("summary").click()
    await expect(alice.wire.locator("pre")).to_contain_text('"action": "session.describe"')
    await expect(alice.wire.locator(".marks")).to_contain_text("signed")
    await alice.page.get_by_label("Filter").fill("nothing has this")
    await expect(alice.page.get_by_text("No frame fits this filter.")).to_be_visible()


async def test_markup_in_a_message_stays_text(guests: Visitors, gateway: RunningGateway) -> None:
    peer = await gateway.peer("bob")
    alice = await guests.come(gateway)
    await alice.log_in("alice")
    await alice.join(ROOM)
    hostile = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
    await peer.do("channel.publish", ROOM, {"text": hostile})
    await expect(alice.messages).to_have_text([hostile])
    await alice.on_the_wire("message").locator("summary").click()
    await expect(alice.on_the_wire("message").locator("pre")).to_contain_text("onerror")
    assert await alice.page.title() == "Portcullis"


async def test_policy_of_the_page_stops_what_is_not_its_own(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.open()
    found = await alice.page.evaluate(
        """async () => {
          const style = document.createElement("style");
          style.textContent = "body { display: none }";
          document.head.append(style);
          const elsewhere = await fetch("http://127.0.0.1:9/").then(() => "loaded", () => "stopped");
          await new Promise((resolve) => setTimeout(resolve, 50));
          return [elsewhere, window.violations.splice(0)];
        }"""
    )
    assert found[0] == "stopped"
    assert {directive.removesuffix("-elem") for directive in found[1]} == {"style-src", "connect-src"}
    alice.complaints.clear()  # the browser's own words on what it stopped
    alice.hosts.discard("127.0.0.1:9")


# ------------------------------------------------------------------------------------------------ for everybody


async def test_keyboard_alone_is_enough(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.present("alice")
    await alice.open()
    keyboard = alice.page.keyboard
    await keyboard.press("Tab")
    await expect(alice.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await keyboard.press("Enter")
    await keyboard.press("Tab")
    await expect(alice.page.get_by_label("User")).to_be_focused()
    await keyboard.type("alice")
    await keyboard.press("Tab")
    await keyboard.type(password("alice"))
    await keyboard.press("Enter")
    await expect(alice.page.get_by_label("Channel", exact=True)).to_be_focused()
    for channel in ("room:acme:1", "room:acme:2"):
        await alice.page.get_by_label("Channel", exact=True).focus()
        await keyboard.press("Control+A")
        await keyboard.type(channel)
        await keyboard.press("Enter")
        await expect(alice.room.get_by_placeholder("Say something, or JSON")).to_be_focused()
        await expect(alice.page.get_by_role("tab", name=channel, selected=True)).to_be_visible()
    await keyboard.type("typed")
    await keyboard.press("Enter")
    await expect(alice.messages).to_have_text(["typed"])
    await alice.page.get_by_role("tab", name="room:acme:2").focus()
    await keyboard.press("ArrowLeft")
    await expect(alice.page.get_by_role("tab", name="room:acme:1", selected=True)).to_be_focused()
    await alice.on_the_wire("reply").locator("summary").focus()
    await keyboard.press("Enter")
    await expect(alice.page.locator("#wire pre").first).to_be_visible()


async def widths(page: Page) -> tuple[int, int]:
    found = await page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return found[0], found[1]


async def test_phone_shows_one_view_at_a_time_and_nothing_sticks_out(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway, **PHONE)
    await alice.present("alice")
    await alice.open()
    assert await widths(alice.page) == (360, 360)
    await alice.page.get_by_label("User").fill("alice")
    await alice.page.get_by_label("Password", exact=True).fill(password("alice"))
    await alice.page.get_by_role("button", name="Log in and connect").tap()
    await expect(alice.page.locator("#workspace")).to_be_visible()
    await alice.join(ROOM)
    await alice.publish("from a phone " + "without any gap" * 12)
    await expect(alice.messages).to_have_count(1)
    for view, region in (("Session", "Session"), ("Wire", "On the wire"), ("Channels", "Channels")):
        await alice.page.get_by_role("button", name=view, exact=True).tap()
        await expect(alice.page.get_by_role("region", name=region, exact=True)).to_be_visible()
        assert await alice.page.locator(".panel:visible").count() == 1
        assert await widths(alice.page) == (360, 360), view
        assert await alice.page.evaluate(SMALL_TARGETS) == [], view
    composer = await alice.room.get_by_role("button", name="Publish").bounding_box()
    assert composer is not None
    assert composer["y"] + composer["height"] < 740, "the line to write on is on the screen"


# WCAG 2.2, success criterion 2.5.8: targets of at least 24 by 24 pixels.
SMALL_TARGETS = """
[...document.querySelectorAll("button, input:not([type=checkbox]), select, textarea, summary")]
  .filter((target) => target.checkVisibility())
  .map((target) => [target.id || target.textContent.trim(), target.getBoundingClientRect()])
  .filter(([, { width, height }]) => width < 24 || height < 24)
  .map(([name, { width, height }]) => `${name}: ${width} x ${height}`)
"""

# What a checker of accessibility looks at first: names, labels, unique ids, references that lead somewhere.
FAULTS = """
() => {
  const faults = [];
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of ids) if (ids.filter((each) => each === id).length > 1) faults.push(`id ${id} twice`);
  for (const attribute of ["aria-controls", "aria-labelledby", "aria-describedby", "for", "list"]) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of element.getAttribute(attribute).split(" ")) {
        if (!document.getElementById(id)) faults.push(`${attribute}=${id} leads nowhere`);
      }
    }
  }
  for (const control of document.querySelectorAll("input, select, textarea")) {
    if (control.labels.length === 0 && !control.getAttribute("aria-label")) faults.push(`no label: ${control.id}`);
  }
  for (const control of document.querySelectorAll("button, a[href], summary")) {
    if (!(control.getAttribute("aria-label") ?? control.textContent).trim()) faults.push(`no name: ${control.outerHTML}`);
  }
  for (const image of document.querySelectorAll("svg, img")) {
    if (!image.closest("[aria-hidden=true]") && !image.getAttribute("alt")) faults.push("an image without a text");
  }
  for (const element of document.querySelectorAll("[tabindex]")) {
    if (element.tabIndex > 0) faults.push("a positive tabindex");
  }
  const headings = [...document.querySelectorAll("h1, h2, h3")].filter((heading) => heading.checkVisibility());
  if (headings.filter((heading) => heading.tagName === "H1").length !== 1) faults.push("not one h1");
  if (!document.documentElement.lang) faults.push("no language");
  if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
  return faults;
}
"""


async def test_everything_has_a_name_and_a_label(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.open()
    assert await alice.page.evaluate(FAULTS) == []
    await alice.log_in("alice")
    await alice.join(ROOM)
    await alice.publish("hello")
    await expect(alice.messages).to_have_count(1)
    await alice.command("no.such.action")
    await expect(alice.notices).to_contain_text("unknown_action")
    assert await alice.page.evaluate(FAULTS) == []
    await expect(alice.page.get_by_role("status")).to_have_text("Connected, signed")
    await expect(alice.page.get_by_role("log", name=f"Messages in {ROOM}")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_theme_follows_the_system_and_can_be_chosen(
    guests: Visitors, gateway: RunningGateway, scheme: str
) -> None:
    alice = await guests.come(gateway, color_scheme=scheme)
    await alice.open()
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(245, 242, 235)", "rgb(15, 18, 21)"
    assert await alice.page.evaluate(ground) == (dark if scheme == "dark" else light)
    theme = alice.page.get_by_role("button", name="Theme")
    await theme.click()
    assert await alice.page.evaluate(ground) == light
    await theme.click()
    assert await alice.page.evaluate(ground) == dark
    await expect(theme).to_have_accessible_name("Theme: dark")


async def test_password_can_be_looked_at(guests: Visitors, gateway: RunningGateway) -> None:
    alice = await guests.come(gateway)
    await alice.open()
    field = alice.page.get_by_label("Password", exact=True)
    await expect(field).to_have_attribute("type", "password")
    await alice.page.get_by_role("button", name="Show").click()
    await expect(field).to_have_attribute("type", "text")
    await expect(alice.page.get_by_role("button", name="Hide")).to_have_attribute("aria-pressed", "true")


async def test_production_has_no_such_page(tmp_path: Path, secret_watch: SecretWatch) -> None:
    async with run_gateway(tmp_path, secret_watch) as gateway:
        for path in ("/", "/page/page.js", "/page/portcullis.js"):
            assert (await gateway.http.get(path)).status_code == 404
