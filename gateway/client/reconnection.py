"""When a client comes back after a connection has ended, and with what: a pure function.

Owns the table from a close code to the next step. Refuses to own sockets, clocks and chance.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.core.errors import Closes, Refusal

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
STABLE_AFTER_S = 10.0
"""A connection that lasted this long was a success: the next wait starts from the first one again."""

ABNORMAL = 1006
_GOING_AWAY, _INTERNAL, _TRY_AGAIN_LATER, _POLICY = 1001, 1011, 1013, 1008
_WITH_A_NEW_CREDENTIAL = frozenset({Refusal.EXPIRED_TOKEN.value, Refusal.INVALID_TICKET.value})


class Credential(enum.Enum):
    """What the next connection is made with."""

    SAME = "same"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Return:
    """A connection is to be made again.

    Args:
        after_s: Seconds to wait first.
        credential: Whether the one that was used may be used again.
    """

    after_s: float
    credential: Credential


def next_step(code: int, reason: str, *, told_s: float | None, failures: int, chance: float) -> Return | None:
    """Give what follows a close; None where coming back would not help.

    Args:
        code: The close code; 1006 where there was none.
        reason: The close reason.
        told_s: What a `draining` push said.
        failures: Connections before this one that ended soon, without a stable one between.
        chance: From 0 to 1, so that not all clients come back at once.
    """
    wait_s = back_off_s(failures, chance)
    if code == _GOING_AWAY:
        return Return(wait_s if told_s is None else told_s, Credential.SAME)
    if code in {ABNORMAL, _INTERNAL, _TRY_AGAIN_LATER}:
        return Return(wait_s, Credential.SAME)
    if code == _POLICY and reason == Closes.RATE_LIMITED.reason:
        return Return(wait_s, Credential.SAME)
    if code == _POLICY and reason in _WITH_A_NEW_CREDENTIAL:
        # At once the first time; a gateway that refuses each new one at sight must not be asked in a circle.
        return Return(0.0 if failures == 0 else wait_s, Credential.NEW)
    return None


def back_off_s(failures: int, chance: float) -> float:
    """Give the wait before the next attempt: doubling with each failure, and between half and all of that by chance."""
    ceiling_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures, 16))
    return ceiling_s * (0.5 + chance / 2)
