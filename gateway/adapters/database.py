"""The database: one engine for a process, read and write transactions, and the migrations at its start.

Owns what differs between databases (pragmas, how a write begins) and what their failures mean. Refuses to own any statement:
each store has its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from gateway.core.errors import StateUnavailableError

# How long a request may wait for the state of accounts before it gets 503.
STATE_TIMEOUT_S = 5.0
_BUSY_TIMEOUT_MS = 4500

_MIGRATIONS = Path(__file__).with_name("migrations")
_NUMBER_DIGITS = 4


def _engine(url: str) -> AsyncEngine:
    engine = create_async_engine(url, pool_timeout=STATE_TIMEOUT_S, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
        if engine.url.database:
            _SqliteFile(Path(engine.url.database)).watch(engine.sync_engine)
    return engine


class _SqliteFile:
    """The file behind the connections of an engine: SQLite would not notice that it has been taken away.

    On a file that was removed or replaced, open connections would go on for ever, and no account command would reach them. So
    a connection is given out only while its file is the one under the name, and a file that has been there is not made anew:
    an empty one would know no account and no revocation.

    Args:
        path: Its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = False

    def watch(self, engine: sa.Engine) -> None:
        """Look at each connection that the engine opens or gives out."""
        sa.event.listen(engine, "do_connect", self._opening)
        sa.event.listen(engine, "connect", self._opened)
        sa.event.listen(engine, "checkout", self._given_out)

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _opening(self, *_: object) -> None:
        if self._seen and self._identity() is None:
            raise FileNotFoundError("the file of the database has been taken away")

    def _opened(self, _connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        entry.info["file"] = self._identity()
        self._seen = self._seen or entry.info["file"] is not None

    def _given_out(self, _connection: DBAPIConnection, entry: ConnectionPoolEntry, _fairy: object) -> None:
        if entry.info["file"] is None or entry.info["file"] != self._identity():
            raise sa.exc.DisconnectionError  # the pool opens another one in its place


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver's own transactions begin late and let concurrent read-modify-writes lose one another: ours begin at `begin`.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",  # first: the change to WAL itself may meet a lock
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    """The tables of one gateway, shared by all of its nodes and commands.

    Args:
        url: `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://…`.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writing = self._engine.execution_options(writes=True)
        self._embedded = self._engine.dialect.name == "sqlite"
        # SQLite has one writer at a time and polls for its turn, in no order: within this process they queue instead.
        self._turn: contextlib.AbstractAsyncContextManager[object] = (
            asyncio.Lock() if self._embedded else contextlib.nullcontext()
        )

    @property
    def embedded(self) -> bool:
        """Whether the database is a file of this machine, which the gateway migrates by itself."""
        return self._embedded

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that only reads.

        Raises:
            StateUnavailableError: The database cannot be reached, or took more than 5 s.
        """
        with _failures_named():
            async with asyncio.timeout(STATE_TIMEOUT_S), self._engine.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that writes, from its first statement on alone with the rows that it touches.

        Raises:
            StateUnavailableError: The database cannot be reached, or took more than 5 s.
        """
        with _failures_named():
            async with asyncio.timeout(STATE_TIMEOUT_S), self._turn, self._writing.begin() as connection:
                yield connection

    async def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            StateUnavailableError: There is none.
        """
        async with self.read() as connection:
            await connection.execute(sa.select(sa.literal(1)))

    async def is_current(self) -> bool:
        """Tell whether the schema is this release's, or that of a later one, on which it also runs."""
        async with self.read() as connection:
            return await connection.run_sync(_is_current)

    async def migrate(self) -> bool:
        """Bring the schema up to date; answer whether there was anything to do. Several processes may try at once.

        Raises:
            StateUnavailableError: The database cannot be reached.
        """
        with _failures_named():
            async with self._turn, self._writing.begin() as connection:
                if await connection.run_sync(_is_current):
                    return False
                await connection.run_sync(_upgrade)
                return True

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()


@contextlib.contextmanager
def _failures_named() -> Iterator[None]:
    """Give every failure of the database one name, but for the statements' own: conflicts, and mistakes of ours."""
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except (DBAPIError, PoolTimeoutError, TimeoutError, OSError) as error:
        # Without the driver's own words, which have the statement's parameters in them.
        raise StateUnavailableError(f"the database cannot be reached: {type(error).__name__}") from None


def _head() -> str:
    """Give this release's revision: migrations are numbered, and their files begin with the number."""
    return max(path.name[:_NUMBER_DIGITS] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _is_current(connection: sa.Connection) -> bool:
    # Alembic is asked only where there is something to do: importing it takes longer than all the rest of a start.
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision is not None and str(revision) >= _head()


def _upgrade(connection: sa.Connection) -> None:
    import alembic.command  # noqa: PLC0415 - see `_is_current`
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
