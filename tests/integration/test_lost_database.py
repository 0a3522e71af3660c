"""The file of an embedded database is taken away while a gateway runs on it, put back, or replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from running_gateway import WAIT_S, RunningGateway, password
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.adapters.database import Database
from gateway.core.errors import StateUnavailableError


async def handshake(gateway: RunningGateway, token: str) -> int:
    """Connect; give the status of the answer."""
    try:
        async with connect(gateway.ws_url, additional_headers={"Authorization": f"Bearer {token}"}):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def until(gateway: RunningGateway, token: str, status: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:  # what is known is believed for a second
            if await handshake(gateway, token) == status:
                return
            await asyncio.sleep(0.05)


async def login(gateway: RunningGateway) -> int:
    form = {"grant_type": "password", "username": "alice", "password": password("alice")}
    return (await gateway.http.post("/token", data=form)).status_code


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("gateway.db*"))


async def test_while_the_file_is_away_nobody_comes_in_and_when_it_is_back_everybody_does(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    token = (await gateway.token("alice"))["access_token"]
    alice = await gateway.peer("bob")
    data, away = tmp_path / "data", tmp_path / "away"
    away.mkdir()
    taken = [file.rename(away / file.name) for file in files(data)]
    assert taken
    await until(gateway, token, 503)
    assert await login(gateway) == 503
    assert (await gateway.http.get("/readyz")).status_code == 503
    assert files(data) == []  # an empty database in its place would know no revocation
    assert await alice.do("ping") == {}
    for file in taken:
        file.rename(data / file.name)
    await until(gateway, token, 101)
    assert await login(gateway) == 200


async def test_a_file_that_replaces_it_is_the_one_that_counts(gateway: RunningGateway, tmp_path: Path) -> None:
    await gateway.token("alice")
    data = tmp_path / "data"
    async with gateway.gateway.identity.database.write() as connection:
        await connection.exec_driver_sql("PRAGMA user_version = 7")
    copy = tmp_path / "copy.db"
    async with gateway.gateway.identity.database.read() as connection:
        await connection.exec_driver_sql("ROLLBACK")
        await connection.exec_driver_sql("VACUUM INTO ?", (str(copy),))
    for file in files(data):
        file.unlink()
    assert await login(gateway) == 503
    copy.rename(data / "gateway.db")  # whole from the first moment on: the gateway looks for it all the time
    assert await login(gateway) == 200


async def test_a_file_that_has_never_been_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    database = Database(f"sqlite+aiosqlite:///{path}")
    try:
        await database.ping()
        assert path.exists()
        path.unlink()
        with pytest.raises(StateUnavailableError):
            await database.ping()
        assert not path.exists()
    finally:
        await database.close()
