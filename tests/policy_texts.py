"""Policies from texts, for tests: the real parser and the real language of conditions, without a directory."""

from __future__ import annotations

import functools
import textwrap

import pytest

from gateway.adapters.cel import CelConditions
from gateway.adapters.yaml_documents import read_yaml
from gateway.core.bound_policy import CacheLimits
from gateway.core.decision import Decision
from gateway.core.documents import DocumentFile, Finding
from gateway.core.policy import DEFAULT_LIMITS, CompiledPolicy, PolicyRefusedError, compile_policy
from gateway.core.principal import ConnectionFacts, Principal

NOW = 1_800_000_000.0
SIGNED = ConnectionFacts(ip="192.0.2.7", origin="https://app.example", signed=True)
UNSIGNED = ConnectionFacts(ip="192.0.2.7")
ALICE = Principal("alice", "acme", ("member",), {"desk": "fx"})


@functools.cache
def conditions() -> CelConditions:
    return CelConditions()


def document(text: str, name: str = "policy.yaml") -> DocumentFile:
    return DocumentFile(name, read_yaml(textwrap.dedent(text).encode()))


def policy(*texts: str, limits: CacheLimits = DEFAULT_LIMITS) -> CompiledPolicy:
    """Compile texts; the first is `policy.yaml`, those that follow are `policy1.yaml` and so on."""
    files = [document(text, f"policy{place or ''}.yaml") for place, text in enumerate(texts)]
    return compile_policy(files, conditions(), "0123456789ab", limits)


def findings(*texts: str) -> list[str]:
    """Give what is wrong with a policy that has to be refused."""
    with pytest.raises(PolicyRefusedError) as refused:
        policy(*texts)
    return [str(finding) for finding in refused.value.findings]


def written(found: list[Finding]) -> list[str]:
    return [str(finding) for finding in found]


def decide(
    compiled: CompiledPolicy,
    action: str,
    channel: str | None = None,
    data: object = None,
    *,
    by: Principal = ALICE,
    over: ConnectionFacts = UNSIGNED,
    now: float = NOW,
) -> Decision:
    return compiled.bind(by).decide(action, channel, data, over, now)
