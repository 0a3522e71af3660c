"""What a decision costs, and that it does not grow with the number of rules: `.venv/bin/python benchmarks/policy.py`.

Three ways to the same answer: one that was given before (the hot path of a session), one that is worked out anew (a channel never
seen), and one that asks a condition. Each with 10, 1,000 and 10,000 rules in one role; the ratio of the last to the first is printed, and
the run fails where it is above `MAX_RATIO`.
"""

from __future__ import annotations

import itertools
import json
import sys
import timeit
from collections.abc import Callable

from gateway.adapters.cel import CelConditions
from gateway.adapters.yaml_documents import read_yaml
from gateway.core.bound_policy import CacheLimits
from gateway.core.decision import Decision
from gateway.core.documents import DocumentFile
from gateway.core.policy import CompiledPolicy, compile_policy
from gateway.core.principal import ConnectionFacts, Principal

RULES = (10, 1_000, 10_000)
MAX_RATIO = 2.0
ROUNDS = 25
ALICE = Principal("alice", "acme", ("member",), {"desk": "fx"})
FACTS = ConnectionFacts("192.0.2.7", "", signed=True)
NOW = 1_800_000_000.0
CONDITIONS = CelConditions()


def build(rules: int) -> CompiledPolicy:
    """Make a policy of that many rules, of which a handful is about the question."""
    allow = [
        {"actions": ["channel.publish", "channel.subscribe"], "channels": ["room:{tenant}:*"]},
        {"actions": ["orders.*"], "when": "data.amount <= 1000 && principal.claims.desk == 'fx'"},
    ]
    deny = [{"actions": ["channel.publish"], "channels": ["room:*:announcements"]}]
    others = [
        {
            "actions": [f"app{number}.act", "channel.publish"],
            "channels": [f"app{number}:{{tenant}}:*", f"x:{number}:**"],
        }
        for number in range(rules - len(allow) - len(deny))
    ]
    text = json.dumps({"roles": {"member": {"allow": others + allow, "deny": deny}}}, indent=1)
    # One answer is kept, so that two channels in turn are worked out anew each time.
    limits = CacheLimits(shared_answers=1, personal_answers=1)
    return compile_policy([DocumentFile("policy.yaml", read_yaml(text.encode()))], CONDITIONS, limits=limits)


def ways(policy: CompiledPolicy) -> dict[str, tuple[Callable[[], object], int]]:
    """Give what is timed: the call, and how often a round makes it."""
    bound = policy.bind(ALICE)
    rooms = itertools.cycle(("room:acme:1", "room:acme:2"))
    order = {"amount": 5}

    def kept() -> Decision:
        return bound.decide("channel.publish", "room:acme:1", None, FACTS, NOW)

    def anew() -> Decision:
        return bound.decide("channel.publish", next(rooms), None, FACTS, NOW)

    def conditional() -> Decision:
        return bound.decide("orders.place", None, order, FACTS, NOW)

    for ask in (kept, anew, conditional):
        assert ask().allowed
    return {
        "conditional": (conditional, 2_000),
        "worked out anew": (anew, 2_000),
        "kept": (kept, 20_000),
        "bind": (lambda: policy.bind(ALICE), 5_000),
    }


def main() -> int:
    """Print the table; exit 1 where a decision grows with the rules."""
    measured = [ways(build(rules)) for rules in RULES]
    best = [dict.fromkeys(way, float("inf")) for way in measured]
    # In turn, so that a busy moment of the machine falls on all of them, and the least of many rounds counts.
    for _ in range(ROUNDS):
        for way, least in zip(measured, best, strict=True):
            for name, (ask, count) in way.items():
                if name == "kept":
                    ask()
                least[name] = min(least[name], timeit.timeit(ask, number=count) / count * 1e6)
    print(f"{'µs':18}" + "".join(f"{rules:>9,} rules" for rules in RULES) + "    ratio")
    worst = 0.0
    for name in best[0]:
        ratio = best[-1][name] / best[0][name]
        worst = max(worst, ratio)
        print(f"{name:18}" + "".join(f"{least[name]:15.2f}" for least in best) + f"{ratio:9.2f}")
    return int(worst > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
