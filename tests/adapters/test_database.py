"""The database: migrations, transactions that lose nothing, and what its failures are called."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from identity_kit import database_url
from sqlalchemy.exc import IntegrityError

from gateway.adapters.database import Database
from gateway.adapters.identity import SchemaBehindError, open_database
from gateway.adapters.schema import ACCOUNTS, METADATA, THROTTLES
from gateway.core.errors import StateUnavailableError


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(database_url(tmp_path)) as database:
        yield database


def difference(connection: sa.Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, METADATA))


async def test_the_migrations_make_the_tables_that_the_stores_know(database: Database) -> None:
    async with database.read() as connection:
        assert await connection.run_sync(difference) == []


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    assert await database.is_current()
    assert not await database.migrate()


async def test_an_embedded_database_is_not_current_before_it_is_migrated(tmp_path: Path) -> None:
    async with open_database(database_url(tmp_path), migrate=False) as database:
        assert not await database.is_current()
        assert await database.migrate()
        assert await database.is_current()


async def test_the_tables_of_a_later_release_are_run_on_as_they_are(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    assert await database.is_current()
    assert not await database.migrate()


async def test_several_processes_may_migrate_at_once(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from gateway.adapters.identity import open_database\n"
        "async def main():\n"
        "    async with open_database(sys.argv[1]) as database:\n"
        "        assert await database.is_current()\n"
        "asyncio.run(main())\n"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, database_url(tmp_path), stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in started:
        _, problems = await process.communicate()
        assert (process.returncode, problems) == (0, b"")


async def test_the_statements_and_tables_compile_for_postgresql() -> None:
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - only this test asks for it
    from sqlalchemy.schema import CreateTable  # noqa: PLC0415 - as above

    dialect = postgresql.dialect()
    tables = {table.name: str(CreateTable(table).compile(dialect=dialect)) for table in METADATA.sorted_tables}
    assert "BIGSERIAL" in tables["changes"]
    assert "AUTOINCREMENT" not in "".join(tables.values())
    locked = str(sa.select(THROTTLES).with_for_update().compile(dialect=dialect))
    assert "FOR UPDATE" in locked


async def test_concurrent_read_modify_writes_lose_nothing(database: Database, tmp_path: Path) -> None:
    values = {"strikes": 0, "failures": [], "last_failure_at": 0.0, "leases": [], "idle_at": 0.0}
    async with database.write() as connection:
        await connection.execute(THROTTLES.insert().values(key="k", **values))

    async def add_one(to: Database) -> None:
        async with to.write() as connection:
            strikes = (await connection.execute(sa.select(THROTTLES.c.strikes))).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(THROTTLES.update().values(strikes=strikes + 1))

    async with open_database(database_url(tmp_path)) as other:
        await asyncio.gather(*(add_one(to) for to in (database, other) for _ in range(8)))
    async with database.read() as connection:
        assert (await connection.execute(sa.select(THROTTLES.c.strikes))).scalar_one() == 16


async def test_what_fails_halfway_leaves_nothing_behind(database: Database) -> None:
    async def fail_halfway() -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("INSERT INTO familiar_addresses VALUES ('k', 1.0)"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail_halfway()
    async with database.read() as connection:
        assert (await connection.execute(sa.text("SELECT count(*) FROM familiar_addresses"))).scalar_one() == 0


async def test_a_database_that_cannot_be_reached_is_unavailable_and_says_nothing_more(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/missing/gateway.db")
    with pytest.raises(StateUnavailableError, match="the database cannot be reached: OperationalError"):
        await database.ping()
    await database.close()
    for thread in set(threading.enumerate()) - threads:
        await asyncio.to_thread(thread.join)  # the driver's still has a word for the event loop


async def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailableError, match=r"`.*/missing`, does not exist; make it first"):
        async with open_database(f"sqlite+aiosqlite:///{tmp_path}/missing/gateway.db"):
            pass


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(b"junk" * 1000)
    with pytest.raises(StateUnavailableError):
        async with open_database(database_url(tmp_path)):
            pass


async def test_the_parameters_of_a_failed_statement_are_in_no_error(database: Database) -> None:
    with pytest.raises(StateUnavailableError) as failed:
        async with database.read() as connection:
            await connection.execute(sa.text("SELECT * FROM missing WHERE x = :x"), {"x": "hunter2hunter2"})
    assert "hunter2" not in repr(failed.value)
    assert failed.value.__suppress_context__


async def test_the_file_is_its_owners_alone(database: Database, tmp_path: Path) -> None:
    await database.ping()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}  # noqa: ASYNC240 - as above
    assert modes
    assert set(modes.values()) == {0o600}


async def test_a_lock_of_another_process_is_waited_for(database: Database, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, other.execute, "COMMIT")
    async with database.write() as connection:
        await connection.execute(ACCOUNTS.update().values(disabled=False))
    other.close()


async def test_a_server_database_that_is_behind_wants_an_upgrade_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No server is at hand in the suite: an embedded one that says that it is none stands in for it.
    monkeypatch.setattr(Database, "embedded", property(lambda _self: False))
    with pytest.raises(SchemaBehindError, match="run `gateway db upgrade`"):
        async with open_database(database_url(tmp_path)):
            pass


async def test_the_parameters_of_a_conflicting_statement_are_in_no_error(database: Database) -> None:
    values = {"strikes": 0, "failures": ["private"], "last_failure_at": 0.0, "leases": [], "idle_at": 0.0}

    async def insert() -> None:
        async with database.write() as connection:
            await connection.execute(THROTTLES.insert().values(key="k", **values))

    await insert()
    with pytest.raises(IntegrityError) as conflict:
        await insert()
    assert "private" not in str(conflict.value)
    assert "hidden" in str(conflict.value)
