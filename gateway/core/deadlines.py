"""What is due on a connection as time passes: the notice before its token ends, the end, pings, and the silence after one.

Owns when. Refuses to own what is then done.
"""

from __future__ import annotations

import enum

EXPIRING_NOTICE_S = 60.0
PING_GRACE_S = 10.0


class Due(enum.Enum):
    """What has become due."""

    EXPIRED = "expired"
    EXPIRING = "expiring"
    SILENT = "silent"
    PING = "ping"


class Deadlines:
    """The deadlines of one connection. All times are Unix seconds.

    Args:
        expires_at: When the token ends.
        heartbeat_s: Seconds between two pings.
        now: When the connection was opened.
    """

    __slots__ = ("_expires_at", "_heartbeat_s", "_notified", "_pinged_at")

    def __init__(self, expires_at: float, heartbeat_s: float, now: float) -> None:
        self._expires_at = expires_at
        self._heartbeat_s = heartbeat_s
        self._notified = False
        self._pinged_at = now

    def renew(self, expires_at: float) -> None:
        """Go by another token."""
        self._expires_at = expires_at
        self._notified = False

    def look(self, now: float, *, heard: bool) -> list[Due]:
        """Tell what is due; each notice and each ping once.

        Args:
            now: The time.
            heard: Whether any octet has come since the last ping.
        """
        if now >= self._expires_at:
            return [Due.EXPIRED]
        due = []
        if now >= self._expires_at - EXPIRING_NOTICE_S and not self._notified:
            self._notified = True
            due.append(Due.EXPIRING)
        if not heard:
            if now >= self._pinged_at + PING_GRACE_S:
                due.append(Due.SILENT)
        elif now >= self._pinged_at + self._heartbeat_s:
            self._pinged_at = now
            due.append(Due.PING)
        return due

    def next_at(self, *, heard: bool) -> float:
        """Tell when something is next due, if nothing more is heard."""
        expiry = self._expires_at if self._notified else self._expires_at - EXPIRING_NOTICE_S
        # Of an answer nobody tells: whoever is pinged more often than it may be silent is looked at as often.
        return min(expiry, self._pinged_at + (self._heartbeat_s if heard else min(PING_GRACE_S, self._heartbeat_s)))
