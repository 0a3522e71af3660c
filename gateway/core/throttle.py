"""How failed logins slow the next ones down: the arithmetic of three counters, as functions of states and a time.

Owns what a failure, a success and an attempt in flight do to a counter. Refuses to own where the counters are kept and who
waits. One attempt has three counters: of the name from this address, of the address, and of the name.

A counter below its limit lets as many attempts run at once as may still fail; the others wait for those. At its limit the next
attempt has to wait 1 s, and each further failure doubles that, up to 15 minutes; then one attempt at a time may run.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 900.0
_MOST_DOUBLINGS = 10  # 2^10 s is beyond the longest wait

# An attempt that has not ended by then died with its process.
LEASE_S = 30.0

# A name that has logged in at an address within this time is not held up there by what others do.
FAMILIAR_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class ThrottleRule:
    """The numbers of one kind of counter.

    Args:
        limit: Failures within the window that are too many.
        window_s: The window, in seconds.
        forget_s: Seconds without a failure after which the counter starts anew.
    """

    limit: int
    window_s: float
    forget_s: float


class ThrottleKind(enum.Enum):
    """The counters of an attempt, each with its numbers."""

    PAIR = ThrottleRule(limit=5, window_s=60.0, forget_s=900.0)
    ADDRESS = ThrottleRule(limit=50, window_s=60.0, forget_s=900.0)
    NAME = ThrottleRule(limit=100, window_s=3600.0, forget_s=3600.0)


@dataclass(frozen=True, slots=True)
class Counter:
    """What is known of one counter.

    Args:
        failures: Unix seconds of the failures within the window, ascending; none any more once the limit has been reached.
        strikes: Failures at and beyond the limit.
        last_failure_at: Unix seconds of the last failure.
        leases: Unix seconds at which the attempts in flight are given up for dead.
    """

    failures: tuple[float, ...] = ()
    strikes: int = 0
    last_failure_at: float = 0.0
    leases: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether an attempt may run.

    Args:
        runs: It may run now; its leases have been taken.
        retry_after_s: It is refused until so many seconds have passed; 0 where it runs, or waits for attempts in flight.
    """

    runs: bool
    retry_after_s: float = 0.0


RUN = Admission(runs=True)
WAIT = Admission(runs=False)


def current(rule: ThrottleRule, counter: Counter, now: float) -> Counter:
    """Give the counter as it stands now: what has left the window or been forgotten is gone, and so are dead leases."""
    leases = tuple(lease for lease in counter.leases if lease > now)
    if now - counter.last_failure_at >= rule.forget_s:
        return Counter(leases=leases)
    failures = tuple(at for at in counter.failures if now - at < rule.window_s)
    return replace(counter, failures=failures, leases=leases)


def wait_s(counter: Counter, now: float) -> float:
    """Tell how many seconds the next attempt has to wait; 0 below the limit or when the wait is over."""
    if not counter.strikes:
        return 0.0
    wait = min(math.ldexp(FIRST_WAIT_S, min(counter.strikes - 1, _MOST_DOUBLINGS)), LONGEST_WAIT_S)
    return max(0.0, counter.last_failure_at + wait - now)


def room(rule: ThrottleRule, counter: Counter) -> int:
    """Tell how many more attempts may run at once: no more than may still fail."""
    may_fail = 1 if counter.strikes else rule.limit - len(counter.failures)
    return max(0, may_fail - len(counter.leases))


def admit(counters: Sequence[tuple[ThrottleRule, Counter]], now: float) -> Admission:
    """Decide whether an attempt may run, given those of its counters that apply to it, as they stand now."""
    longest = max((wait_s(counter, now) for _, counter in counters), default=0.0)
    if longest > 0:
        return Admission(runs=False, retry_after_s=longest)
    if all(room(rule, counter) for rule, counter in counters):
        return RUN
    return WAIT


def leased(counter: Counter, until: float) -> Counter:
    """Note an attempt that begins to run."""
    return replace(counter, leases=(*counter.leases, until))


def released(counter: Counter, until: float) -> Counter:
    """Note that the attempt with this lease has ended, or was never more than begun."""
    leases = list(counter.leases)
    if until in leases:
        leases.remove(until)
    return replace(counter, leases=tuple(leases))


def failed(rule: ThrottleRule, counter: Counter, now: float) -> Counter:
    """Note a failure."""
    if counter.strikes:
        return replace(counter, strikes=counter.strikes + 1, last_failure_at=now)
    failures = (*counter.failures, now)
    if len(failures) >= rule.limit:
        return replace(counter, failures=(), strikes=1, last_failure_at=now)
    return replace(counter, failures=failures, last_failure_at=now)


def succeeded(counter: Counter) -> Counter:
    """Note a success: the pair starts anew, but for the attempts still in flight."""
    return Counter(leases=counter.leases)


def retry_after(seconds: float) -> int:
    """Give the value of `Retry-After`: whole seconds, rounded up, so that whoever obeys is not refused again."""
    return max(1, math.ceil(seconds))
