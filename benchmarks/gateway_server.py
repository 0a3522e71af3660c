"""The gateway as a contender: in production mode, with a token, a policy, metrics, limits and heartbeats.

Owns its settings, its account and how clients talk to it. Refuses to own anything about other servers.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from orders import Await, Connect, Conversation, Exchange, FanOut, Load, Send, Signing
from servers import START_S, Served, await_port, free_port, running
from workloads import GATEWAY, PAYLOAD

from gateway.core.signing import decode_base64url, encode_base64url

WELCOME = Await(b'"welcome"')
ROOM, EMPTY_ROOM = b"room:acme:1", b"room:acme:empty"
COMMAND = b'{"id":{N},"action":"channel.publish","channel":"%b","data":"%b"}'
PASSWORD = "correct horse battery staple"  # noqa: S105 - of an account that lives for a minute
NONCE = bytes(range(16))
POLICY = """\
version: 1
roles:
  member:
    allow:
      - actions: [channel.subscribe, channel.publish]
        channels: ["room:{tenant}:*"]
      - actions: [channel.publish]
        channels: ["audited:{tenant}:*"]
        signed: true
    deny:
      - actions: [channel.publish]
        channels: ["room:*:announcements"]
"""
RAISED = {
    "GATEWAY_COMMANDS_PER_S": "1000000",
    "GATEWAY_MAX_CONNECTIONS": "100000",
    "GATEWAY_MAX_CONNECTIONS_PER_USER": "100000",
    "GATEWAY_MAX_CONNECTIONS_PER_ADDRESS": "100000",
    "GATEWAY_HANDSHAKES_PER_S": "0",
}


@dataclass(frozen=True, slots=True)
class Login:
    """What `/token` answers."""

    access_token: str
    signing_key: bytes


def log_in(port: int) -> Login:
    """Get a token, as any client does."""
    form = {"grant_type": "password", "username": "alice", "password": PASSWORD}
    answer = httpx.post(f"http://127.0.0.1:{port}/token", data=form, timeout=START_S).raise_for_status().json()
    key = decode_base64url(answer["signing_key"])
    assert key is not None
    return Login(answer["access_token"], key)


@dataclass(frozen=True)
class PortcullisGateway:
    """The gateway in production mode, with one account, made once and copied for each run.

    Args:
        folder: Where the account is kept between runs.
        settings: Beyond those that are raised for every run.
        policy: The whole of it.
    """

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    policy: str = POLICY
    name: str = GATEWAY
    _secret: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    @property
    def version(self) -> str:
        """Give the release and, in a clone, the commit."""
        number = importlib.metadata.version("portcullis-gateway")
        asked = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
        return f"{number} ({asked.stdout.strip()})" if asked.returncode == 0 else number

    def plays(self, load: Load) -> bool:
        """Play everything."""
        return isinstance(load, FanOut | Exchange | Connect)

    @contextlib.contextmanager
    def serving(self, load: Load, core: int | None) -> Iterator[Served]:
        """Start it, and log in."""
        with self.started(core) as (pid, port):
            yield Served(pid, port, gateway_conversation(load, log_in(port)))

    @contextlib.contextmanager
    def started(self, core: int | None) -> Iterator[tuple[int, int]]:
        """Start it; give its process and port."""
        with tempfile.TemporaryDirectory() as temporary:
            folder, port = Path(temporary), free_port()
            shutil.copytree(self._with_account(), folder / "data")
            (folder / "policies").mkdir()
            (folder / "policies" / "policy.yaml").write_text(self.policy)
            command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
            with running(command, folder, core, self._environment(folder)) as process:
                await_port(process, port, folder)
                yield process.pid, port

    def _environment(self, folder: Path) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
            **RAISED,
            **self.settings,
            "GATEWAY_SECRET_KEY": self._secret,
            "GATEWAY_DATA_DIR": str(folder / "data"),
            "GATEWAY_POLICY_DIR": str(folder / "policies"),
        }

    def _with_account(self) -> Path:
        """Give the data directory in which the account stands."""
        made = self.folder / "data"
        if not made.exists():
            (self.folder / "policies").mkdir(exist_ok=True)
            (self.folder / "policies" / "policy.yaml").write_text(self.policy)
            account = ["alice", "--role", "member", "--tenant", "acme", "--password-stdin"]
            subprocess.run(
                [sys.executable, "-m", "gateway", "users", "add", *account],
                env=self._environment(self.folder),
                input=PASSWORD,
                text=True,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return made


def gateway_conversation(load: Load, login: Login) -> Conversation:
    """Talk to the gateway (docs/protocol.md): signed where it is asked and answers, with a token always."""
    token = ("Authorization", f"Bearer {login.access_token}")
    if isinstance(load, Exchange):
        return Conversation(
            path=f"/ws?nonce={encode_base64url(NONCE)}",
            headers=(token, ("Sec-WebSocket-Protocol", "gateway.v1.json.signed")),
            arrive=(WELCOME,),
            template=COMMAND % (EMPTY_ROOM, PAYLOAD),
            reply=b'"reply"',
            signing=Signing(login.signing_key, NONCE),
        )
    subscribe = (Send(b'{"id":1,"action":"channel.subscribe","channel":"%b"}' % ROOM), Await(b'"reply"'))
    return Conversation(
        path="/ws",
        headers=(token,),
        arrive=(WELCOME, *(subscribe if isinstance(load, FanOut) else ())),
        arrive_to_publish=(WELCOME,),
        template=COMMAND % (ROOM, PAYLOAD),
    )
