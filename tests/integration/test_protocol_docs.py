"""`docs/protocol.md` and `docs/javascript.md` say what the code does, and their examples work as they stand."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from node_client import NODE
from running_gateway import RunningGateway, password

from gateway.core.commands import BUILT_IN_ACTIONS, ChannelUse
from gateway.core.errors import Close, Closes, ErrorCode, Refusal, refusal_close
from gateway.core.handshake import SUBPROTOCOLS

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
JAVASCRIPT = (ROOT / "docs" / "javascript.md").read_text(encoding="utf-8")
MODULE = ROOT / "gateway" / "web" / "page" / "portcullis.js"
VECTORS: dict[str, Any] = json.loads((ROOT / "docs" / "vectors" / "signing.json").read_text(encoding="utf-8"))


def section(text: str, heading: str) -> str:
    """Give what stands between a heading and the next of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Give the cells of all tables of a text, without their heads."""
    lines = [
        [cell.strip() for cell in line.strip()[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    rules = [at for at, cells in enumerate(lines) if set("".join(cells)) <= set("-| ")]
    return [cells for at, cells in enumerate(lines) if at not in rules and at + 1 not in rules]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_every_action_stands_in_the_table_with_its_use_of_channels() -> None:
    uses = {ChannelUse.NONE: "no", ChannelUse.REQUIRED: "yes", ChannelUse.OPTIONAL: "may"}
    documented = {cells[0].strip("`"): cells[1] for cells in rows(section(PROTOCOL, "Actions"))}
    assert documented == {spec.name: uses[spec.channel] for spec in BUILT_IN_ACTIONS}


def test_every_error_code_is_explained() -> None:
    assert [cells[0].strip("`") for cells in rows(section(PROTOCOL, "Error codes"))] == [
        code.value for code in ErrorCode
    ]


def test_every_close_is_explained() -> None:
    documented = {
        (int(cells[0]), cells[1].strip("`")) for cells in rows(section(PROTOCOL, "Closes, and what a client does next"))
    }
    closes = [close for close in vars(Closes).values() if isinstance(close, Close)]
    closes += [refusal_close(refusal) for refusal in Refusal]
    assert documented == {(close.code, close.reason) for close in closes} | {(1006, "")}


def test_javascript_client_does_after_each_close_what_the_table_says() -> None:
    nexts = {
        "stay away": "stop",
        "log in again": "stop",
        "back off": "backoff",
        "come back with": "renew",
        "come back after": "told",
    }
    closes = rows(section(PROTOCOL, "Closes, and what a client does next"))
    pairs = json.dumps([[int(cells[0]), cells[1].strip("`")] for cells in closes])
    script = (
        f"import {{ describeClose }} from {json.dumps(MODULE.as_uri())};"
        f"console.log(JSON.stringify({pairs}.map(([code, reason]) => describeClose(code, reason).next)));"
    )
    run = subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, check=True, timeout=60)
    for cells, found in zip(closes, json.loads(run.stdout), strict=True):
        assert found == next(step for words, step in nexts.items() if cells[3].startswith(words)), cells


def test_every_subprotocol_is_listed() -> None:
    names = re.findall(r"^\| `(gateway\.v1[\w.]*)`", section(PROTOCOL, "Connecting"), re.MULTILINE)
    assert names == list(SUBPROTOCOLS)


def test_worked_example_is_the_first_vector() -> None:
    example = section(PROTOCOL, "A worked example")
    connection = VECTORS["connections"][0]
    for member in ("signing_key", "client_nonce", "server_nonce", "client_key_hex", "server_key_hex"):
        assert f"`{connection[member]}`" in example
    assert blocks(example, "text") == [connection["frames"][0]["payload"] + "\n"]


def test_python_example_signs_and_verifies() -> None:
    (code,) = blocks(PROTOCOL, "python")
    printed = io.StringIO()
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "protocol.md", "exec"), names)  # noqa: S102 - our own documentation
    first, second = VECTORS["connections"][0]["frames"][:2]
    assert printed.getvalue() == first["payload"] + "\n"
    assert names["verify"](names["client_key"], 1, second["payload"]) == second["body"]
    with pytest.raises(ValueError, match="does not hold"):
        names["verify"](names["client_key"], 2, second["payload"])


def test_openssl_example_gives_key_and_mac() -> None:
    (commands,) = blocks(section(PROTOCOL, "A worked example"), "sh")
    if subprocess.run(["sh", "-c", "openssl kdf -help"], capture_output=True, check=False, timeout=30).returncode != 0:
        pytest.skip("there is no `openssl` command of release 3 or later on this machine")
    run = subprocess.run(["sh", "-euc", commands], capture_output=True, check=True, text=True, timeout=30)
    connection = VECTORS["connections"][0]
    key, mac = run.stdout.replace(":", "").lower().split()
    assert (key, mac) == (connection["client_key_hex"], connection["frames"][0]["mac_hex"])


def test_json_examples_are_json() -> None:
    for example in blocks(PROTOCOL, "json"):
        assert json.loads(example.replace("…", "")), example


def test_every_option_of_the_javascript_client_is_documented() -> None:
    defaults = re.search(r"const DEFAULTS = \{(.*?)\n\};", MODULE.read_text(encoding="utf-8"), re.DOTALL)
    assert defaults is not None
    options = set(re.findall(r"^  (\w+):", defaults[1], re.MULTILINE))
    documented = {name for cells in rows(section(JAVASCRIPT, "Options")) for name in re.findall(r"`(\w+)`", cells[0])}
    assert documented == options | {"url", "fetch", "WebSocket", "random"}


def test_every_event_of_the_javascript_client_is_documented() -> None:
    driver = (ROOT / "tests" / "web" / "js" / "driver.mjs").read_text(encoding="utf-8")
    listed = re.search(r"const EVENTS = \[(.*?)\];", driver, re.DOTALL)
    assert listed is not None
    documented = {name for cells in rows(section(JAVASCRIPT, "Events")) for name in re.findall(r"`(\w+)`", cells[0])}
    assert documented == set(re.findall(r'"(\w+)"', listed[1]))


async def test_javascript_example_runs_against_a_gateway(gateway: RunningGateway, tmp_path: Path) -> None:
    await gateway.add_user("alice", gateway.users.pop("alice"))
    (example,) = blocks(JAVASCRIPT, "js")
    (tmp_path / "portcullis.js").write_text(MODULE.read_text(encoding="utf-8"), encoding="utf-8")
    told = example.replace("http://127.0.0.1:8000", gateway.url).replace(
        "the password that make run printed", password("alice")
    )
    assert told != example
    (tmp_path / "example.mjs").write_text(told, encoding="utf-8")
    process = await _node(tmp_path / "example.mjs")
    assert process == (
        0,
        "connected as alice\nroom:acme:1 alice { text: 'hi' }\nrefused: permission_denied\n",
    )


async def _node(script: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        NODE, "--no-warnings", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode()
