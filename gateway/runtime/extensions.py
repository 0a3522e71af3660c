"""Actions that are not built in: what carries them out, and what becomes of it when it fails or does not answer.

Owns the call. Refuses to own any check: a command that comes here has been authorized.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.core.errors import CommandError, ErrorCode
from gateway.core.events import Event
from gateway.core.principal import ConnectionFacts, Principal
from gateway.runtime.ports import Log


@dataclass(frozen=True, slots=True)
class Invocation:
    """A command for a registered handler, authorized already.

    Args:
        principal: Who acts.
        facts: Over what connection.
        action: The action.
        channel: The channel, where the action takes one.
        data: The data, converted to the struct of the action where it has one.
    """

    principal: Principal
    facts: ConnectionFacts
    action: str
    channel: str | None
    data: object


@dataclass(frozen=True, slots=True)
class ActionHandler:
    """Carries out a registered action that is not built in.

    Args:
        handle: Gives the data of the reply, or raises CommandError.
        timeout_s: Seconds after which the command is answered with `timeout`.
    """

    handle: Callable[[Invocation], Coroutine[Any, Any, object]]
    timeout_s: float = 10.0


class Extensions:
    """The registered handlers.

    Args:
        handlers: By action.
        log: Where failures are told.
    """

    __slots__ = ("_handlers", "_log")

    def __init__(self, handlers: Mapping[str, ActionHandler], log: Log) -> None:
        self._handlers = handlers
        self._log = log

    async def invoke(self, invocation: Invocation, *, session: str, command_id: int) -> object:
        """Call the handler of an action.

        Args:
            invocation: What it is given.
            session: For the log.
            command_id: For the log.

        Raises:
            CommandError: The handler's own, `timeout`, `internal` where it fails in any other way, or `unavailable` where
                the action has no handler.
        """
        handler = self._handlers.get(invocation.action)
        if handler is None:
            raise CommandError(ErrorCode.UNAVAILABLE, "nothing carries this action out now")
        work = asyncio.create_task(handler.handle(invocation))
        done, _ = await asyncio.wait({work}, timeout=handler.timeout_s)
        if not done:
            work.cancel()
            raise CommandError(ErrorCode.TIMEOUT, f"no answer within {handler.timeout_s:g} s")
        error = work.exception()
        if error is None:
            return work.result()
        if isinstance(error, CommandError):
            raise error
        self._log.error(Event.COMMAND_FAILED, session=session, id=command_id, action=invocation.action, exc_info=error)
        raise CommandError(ErrorCode.INTERNAL, "the action has failed")
