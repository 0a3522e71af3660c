"""The load generator against real servers: its counts are right, and what is no answer is no figure."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from client_connection import ClientConnection, ConnectionFailedError, client_frame, split_frames
from gateway_server import Login, PortcullisGateway, gateway_conversation, log_in
from generator import carry_out
from orders import BINARY, TEXT, Connect, Conversation, Exchange, FanOut, Load, Order, Outcome
from peer_servers import fastapi
from process_figures import cpu_us, open_files, resident_kb
from soak import metric, soak

GENERATOR = Path(sys.modules[carry_out.__module__].__file__ or "")
PING, CONTINUATION = 0x9, 0x0


def order(port: int, pid: int, conversation: Conversation, load: Load) -> Order:
    return Order(port, pid, conversation, load, seconds=0.2, warm_up_s=0.05)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Give the process and the port of a gateway of its own."""
    with PortcullisGateway(tmp_path_factory.mktemp("account")).started(core=None) as (pid, port):
        yield pid, port


@pytest.fixture(scope="module")
def login(gateway: tuple[int, int]) -> Login:
    return log_in(gateway[1])


def counted(port: int, name: str, labels: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    return metric(text, name).get(labels, 0.0)


def run(gateway: tuple[int, int], login: Login, load: Load) -> Outcome:
    pid, port = gateway
    return carry_out(order(port, pid, gateway_conversation(load, login), load))


def assert_whole(outcome: Outcome) -> None:
    assert outcome.units > 0
    assert outcome.lost == 0
    assert outcome.cpu_us > 0
    assert 0 < outcome.server_busy < 2
    assert 0 < outcome.generator_busy < 1.1


@pytest.mark.parametrize("outstanding", [1, 8])
def test_every_delivery_of_a_fan_out_is_counted(gateway: tuple[int, int], login: Login, outstanding: int) -> None:
    before = counted(gateway[1], "gateway_messages_delivered_total", "")

    outcome = run(gateway, login, FanOut(20, outstanding))

    assert_whole(outcome)
    assert outcome.units % 20 == 0
    # The warm-up was delivered too, and is not among the units.
    assert counted(gateway[1], "gateway_messages_delivered_total", "") - before > outcome.units


def test_a_pace_is_kept_and_each_delivery_timed(gateway: tuple[int, int], login: Login) -> None:
    outcome = run(gateway, login, FanOut(10, rate_per_s=100))

    assert_whole(outcome)
    assert 10 * 10 <= outcome.units <= 21 * 10
    assert outcome.p99_ms is not None
    assert outcome.p99_ms > 0


@pytest.mark.parametrize("in_flight", [1, 16])
def test_signed_commands_are_all_answered(gateway: tuple[int, int], login: Login, in_flight: int) -> None:
    ok = 'action="channel.publish",outcome="ok"'
    before = counted(gateway[1], "gateway_commands_total", ok)

    outcome = run(gateway, login, Exchange(5, in_flight))

    assert_whole(outcome)
    assert outcome.units >= 5 * in_flight
    assert counted(gateway[1], "gateway_commands_total", ok) - before > outcome.units


def test_connections_are_counted_and_weighed(gateway: tuple[int, int], login: Login) -> None:
    accepted = 'outcome="accepted"'
    before = counted(gateway[1], "gateway_connection_attempts_total", accepted)

    outcome = run(gateway, login, Connect(30, at_once=8, hold_s=0.0))

    assert outcome.units == 30
    assert outcome.idle_kb is not None
    assert counted(gateway[1], "gateway_connection_attempts_total", accepted) - before == 30


def generated(pid: int, port: int, conversation: Conversation, load: Load) -> subprocess.CompletedProcess[bytes]:
    """Let a generator of its own process carry out a load."""
    asked = msgspec.json.encode(order(port, pid, conversation, load))
    return subprocess.run([sys.executable, str(GENERATOR)], input=asked, capture_output=True, check=False)


def test_deliveries_are_timed_while_others_connect_all_at_once(gateway: tuple[int, int], login: Login) -> None:
    pid, port = gateway
    load = FanOut(5, rate_per_s=100, newcomers=40)
    before = counted(port, "gateway_connection_attempts_total", 'outcome="accepted"')

    made = generated(pid, port, gateway_conversation(load, login), load)

    outcome = msgspec.json.decode(made.stdout, type=Outcome)
    assert_whole(outcome)
    assert outcome.p99_ms is not None
    accepted = counted(port, "gateway_connection_attempts_total", 'outcome="accepted"') - before
    assert accepted == 5 + 1 + 40


def test_a_refused_token_fails_the_run(gateway: tuple[int, int], login: Login) -> None:
    forged = Login(login.access_token[:-8] + "AAAAAAAA", login.signing_key)

    with pytest.raises(ConnectionFailedError, match=r"^closed with 1008 invalid_token$"):
        run(gateway, forged, Connect(1))


def test_a_refused_command_fails_the_run_instead_of_counting_as_a_cheap_reply(
    gateway: tuple[int, int], login: Login
) -> None:
    pid, port = gateway
    load = Exchange(1, 1)
    conversation = gateway_conversation(load, login)
    elsewhere = msgspec.structs.replace(conversation, template=conversation.template.replace(b":acme:", b":other:"))

    with pytest.raises(ConnectionFailedError, match=r"not a reply: .*permission_denied"):
        carry_out(order(port, pid, elsewhere, load))


def test_a_plain_peer_is_measured_by_a_generator_of_its_own_process() -> None:
    for load in (FanOut(5), Exchange(3, 4)):
        with fastapi().serving(load, core=None) as served:
            made = generated(served.pid, served.port, served.conversation, load)

            assert_whole(msgspec.json.decode(made.stdout, type=Outcome))
        with pytest.raises(ProcessLookupError):
            os.kill(served.pid, 0)


def test_clients_that_come_and_go_leave_nothing_behind(
    gateway: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    pid, port = gateway

    found = soak(port, pid, seconds=1.0, clients=15, seed=3)

    # A second says nothing about memory.
    assert [fault for fault in found if not fault.startswith("memory")] == []
    assert 'gateway_disconnections_total code="1006"' in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- frames


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def connection(listener: socket.socket, opcode: int = TEXT, unit_bytes: int = 0) -> ClientConnection:
    conversation = Conversation(path="/", template=b"", opcode=opcode, unit_bytes=unit_bytes)
    return ClientConnection(listener.getsockname()[1], conversation, b"", ())


def server_frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Make a frame of a server: a client's has the mask's bit, and four bytes of it, more."""
    size = len(payload)
    length = (
        bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65_536 else b"\x7f" + size.to_bytes(8)
    )
    return bytes((opcode | (0x80 if final else 0),)) + length + payload


STREAM = b"".join(
    (
        server_frame(TEXT, b"short"),
        server_frame(PING, b"are you there"),
        server_frame(TEXT, b"x" * 130),
        server_frame(TEXT, b"in two ", final=False),
        server_frame(CONTINUATION, b"frames"),
        server_frame(BINARY, b""),
        server_frame(TEXT, b"y" * 70_000),
    )
)


@pytest.mark.parametrize("cut", [*range(1, 9), 126, 131, 4_096, 65_536])
def test_messages_are_counted_once_wherever_the_stream_is_cut(listener: socket.socket, cut: int) -> None:
    client = connection(listener)
    peer, _ = listener.accept()
    with peer:
        total = sum(
            client.count(part, len(part)) for part in (STREAM[at : at + cut] for at in range(0, len(STREAM), cut))
        )
        answered = peer.recv(4_096)
        client.close()

    assert total == 5
    assert client.whole
    assert answered == client_frame(0xA, b"are you there")


@pytest.mark.parametrize("cut", [1, 3, 7, 64, 1_000])
def test_messages_of_one_size_are_counted_by_bytes_whatever_frames_they_share(
    listener: socket.socket, cut: int
) -> None:
    client = connection(listener, BINARY, unit_bytes=50)
    stream = b"".join(server_frame(BINARY, b"m" * size) for size in (50, 150, 25, 75, 300))
    parts = [stream[at : at + cut] for at in range(0, len(stream), cut)]

    assert sum(client.count(part, len(part)) for part in parts) == 12
    assert client.whole
    client.close()


def test_a_close_frame_ends_a_run_with_its_code_and_reason(listener: socket.socket) -> None:
    client = connection(listener)
    frame = server_frame(0x8, b"\x03\xf0session_revoked")

    with pytest.raises(ConnectionFailedError, match=r"^closed with 1008 session_revoked$"):
        client.count(frame, len(frame))
    client.close()


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_client_frames_are_masked_and_of_every_length(size: int) -> None:
    frame = client_frame(TEXT, b"z" * size)
    head = len(frame) - size

    assert head == 4 + (2 if size < 126 else 4 if size < 65_536 else 10)
    mask = frame[head - 4 : head]
    assert any(mask)
    assert bytes(octet ^ mask[at % 4] for at, octet in enumerate(frame[head:])) == b"z" * size


def test_whole_frames_are_split_from_what_is_yet_to_come() -> None:
    frames, rest = split_frames(STREAM[:-1])

    assert [(opcode, len(payload)) for opcode, payload in frames] == [(1, 5), (9, 13), (1, 130), (1, 7), (0, 6), (2, 0)]
    assert rest == STREAM[-70_010:-1]


def test_the_kernel_accounts_for_this_process() -> None:
    pid = os.getpid()
    cpu_before, files_before = cpu_us(pid), open_files(pid)
    with Path(os.devnull).open():
        sum(range(200_000))
        time.sleep(0.01)  # the account is brought up to date when a thread stops running

        assert cpu_us(pid) > cpu_before
        assert open_files(pid) == files_before + 1
    assert resident_kb(pid) > 1_000
