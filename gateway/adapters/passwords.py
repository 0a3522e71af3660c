"""Passwords: argon2id through passlib's API, in a few threads of their own behind a bounded queue.

Owns the parameters and the pool. Refuses to own who may try how often. Hashing releases the interpreter, so that the event loop
goes on while two or four of them run; more would only make each of them slower.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from passlib.context import CryptContext

from gateway.runtime.identity_ports import HashingBusyError, PasswordCheck

# OWASP's second choice for argon2id: 19 MiB, two passes, one lane. 16 ms on the machine this was measured on.
MEMORY_KIB = 19_456
PASSES = 2
LANES = 1

MAX_THREADS = 4
MAX_QUEUED = 64
_BUSY_RETRY_S = 2.0

_Outcome = TypeVar("_Outcome")


def _context() -> CryptContext:
    return CryptContext(
        schemes=["argon2", "bcrypt"],  # the first is what new hashes are; others are replaced at the next login
        deprecated="auto",
        argon2__type="ID",
        argon2__memory_cost=MEMORY_KIB,
        argon2__time_cost=PASSES,
        argon2__parallelism=LANES,
    )


class PasslibPasswords:
    """`Passwords` by passlib.

    Args:
        threads: How many hash at once; by default one for each processor, at most four.
        queued: How many may wait for them.
    """

    def __init__(self, threads: int | None = None, queued: int = MAX_QUEUED) -> None:
        threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._room = threading.BoundedSemaphore(threads + queued)
        self._context = _context()

    async def warm(self) -> None:
        """Make the first login as fast as all others: backends are loaded and the dummy hash made at first use."""
        await self._run(self._context.dummy_verify)

    async def hash(self, password: str) -> str:
        """Hash a new password.

        Raises:
            HashingBusyError: The queue is full.
        """
        return await self._run(lambda: str(self._context.hash(password)))

    async def check(self, password: str, stored: str | None) -> PasswordCheck:
        """Check a password; with None, or junk, stored it takes as long and never matches.

        Raises:
            HashingBusyError: The queue is full.
        """
        return await self._run(lambda: self._check(password, stored))

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, password: str, stored: str | None) -> PasswordCheck:
        if stored is not None:
            try:
                matches, better_hash = self._context.verify_and_update(password, stored)
            except (ValueError, TypeError):
                # An unknown or broken hash, a password that cannot be encoded or is too long: it does not match.
                pass
            else:
                return PasswordCheck(bool(matches), better_hash)
        self._context.dummy_verify()
        return PasswordCheck(matches=False)

    async def _run(self, work: Callable[[], _Outcome]) -> _Outcome:
        if not self._room.acquire(blocking=False):
            raise HashingBusyError(_BUSY_RETRY_S)
        future = self._pool.submit(work)
        # Also where the caller has gone: a thread is busy until it is done, whoever waits for it.
        future.add_done_callback(lambda _done: self._room.release())
        return await asyncio.wrap_future(future)
