"""The policy of a directory, kept up to date.

Owns when files are looked at again, and that a broken policy changes nothing. Refuses to own how they are read (`policy_files`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeAlias

import watchfiles

from gateway.adapters.policy_files import PolicyContent, compile_content, is_policy_name, read_directory
from gateway.core.conditions import ConditionCompiler
from gateway.core.decision import Policy
from gateway.core.documents import Finding
from gateway.core.events import Event
from gateway.core.policy import CompiledPolicy, PolicyRefusedError
from gateway.runtime.ports import Log, Metrics

# Events wake within some 60 ms; looking every half second finds what they miss (a directory that was moved away and back, a file
# system without events) and still leaves the other half of the second in which a change has to reach open subscriptions.
LOOK_AGAIN_S: Final = 0.5
# A file is taken as it stands when nothing has touched it for so long: a writer may be halfway through it.
SETTLE_S: Final = 0.05
MAX_SETTLING: Final = 10
_GATHER_EVENTS_MS: Final = 100
_EVENT_STEP_MS: Final = 20

Stamp: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


class PolicyDirectory:
    """The policy of a directory, kept up to date; implements `gateway.runtime.ports.PolicySource`.

    Reading and compiling happen in a thread. A change is looked for at each event of the directory and twice a second; it is taken
    when the contents of the files differ, so also when a Kubernetes ConfigMap swaps the link that all of them go through.

    Args:
        directory: Where the `*.yaml` files are.
        conditions: What compiles the texts of `when`.
        log: Gets `policy.reloaded` and `policy.refused`.
        metrics: Counts reloads, shows the version.

    Raises:
        PolicyRefusedError: There is no good policy to begin with.
    """

    def __init__(self, directory: Path, conditions: ConditionCompiler, log: Log, metrics: Metrics) -> None:
        self._directory = directory
        self._conditions = conditions
        self._log = log
        self._metrics = metrics
        self._stamp = _stamp(directory)
        content = read_directory(directory)
        self._looked_at: PolicyContent | None = content
        self._unreadable: tuple[Finding, ...] = ()
        self._current = compile_content(content, conditions)
        metrics.policy_version(self._current.version)

    @property
    def current(self) -> CompiledPolicy:
        """Give the last good policy."""
        return self._current

    async def run(self, changed: Callable[[Policy], None]) -> None:
        """Call `changed` after each good reload until cancelled; see the port."""
        async with aclosing(self._wakings()) as wakings:
            async for certain in wakings:
                stamp = _stamp(self._directory)
                if certain or stamp != self._stamp:
                    self._stamp = await self._settled(stamp)
                    await self._reload(changed)

    async def _wakings(self) -> AsyncGenerator[bool, None]:
        """Wake now and then: True where something has happened, False where it is only time to look again."""
        while True:
            watched = _identity(self._directory)
            yield True
            if watched is None:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            try:
                async with aclosing(self._events()) as events:
                    async for changes in events:
                        yield bool(changes)
                        if _identity(self._directory) != watched:
                            break
            except OSError:
                # Gone between the look and the watch, or no watches are left: then looking again is all there is.
                await asyncio.sleep(LOOK_AGAIN_S)

    def _events(self) -> AsyncGenerator[set[watchfiles.main.FileChange], None]:
        return watchfiles.awatch(
            self._directory,
            watch_filter=None,
            debounce=_GATHER_EVENTS_MS,
            step=_EVENT_STEP_MS,
            rust_timeout=int(LOOK_AGAIN_S * 1000),
            yield_on_timeout=True,
            recursive=False,
        )

    async def _settled(self, stamp: Stamp) -> Stamp:
        """Wait until nothing changes any more, but not forever."""
        for _ in range(MAX_SETTLING):
            await asyncio.sleep(SETTLE_S)
            later = _stamp(self._directory)
            if later == stamp:
                break
            stamp = later
        return stamp

    async def _reload(self, changed: Callable[[Policy], None]) -> None:
        try:
            content = await asyncio.to_thread(read_directory, self._directory)
        except PolicyRefusedError as error:
            # Looked at twice a second while it lasts, told once.
            self._looked_at = None
            if error.findings != self._unreadable:
                self._unreadable = error.findings
                self._refuse(error.findings)
            return
        self._unreadable = ()
        if content == self._looked_at:
            return
        self._looked_at = content
        try:
            policy = await asyncio.to_thread(compile_content, content, self._conditions)
        except PolicyRefusedError as error:
            self._refuse(error.findings)
            return
        self._current = policy
        self._metrics.policy_reload("ok")
        self._metrics.policy_version(policy.version)
        self._log.info(Event.POLICY_RELOADED, policy=policy.version, roles=len(policy.roles))
        changed(policy)

    def _refuse(self, findings: tuple[Finding, ...]) -> None:
        """Keep the last good policy, and say why."""
        first = findings[0]
        self._metrics.policy_reload("error")
        self._log.error(
            Event.POLICY_REFUSED,
            file=first.file,
            line=first.line,
            reason=first.reason,
            findings=len(findings),
            policy=self._current.version,
        )


def _stamp(directory: Path) -> Stamp:
    """Give what tells cheaply that files have changed; nothing where there is none."""
    try:
        entries = [entry for entry in directory.iterdir() if is_policy_name(entry.name)]
        found = [(entry.name, entry.stat()) for entry in sorted(entries)]
    except OSError:
        return ()
    return tuple((name, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size) for name, status in found)


def _identity(directory: Path) -> tuple[int, int] | None:
    """Tell which directory stands at the path, for a watch stays with the one that it began with."""
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
