"""The grammar of policy documents: from trees with lines to roles, rules, channels and routes.

Owns every refusal of a policy that can be told without compiling its conditions, with file and line. All findings of a policy are
collected, so that one run of `policy lint` shows them all. Refuses to own what a rule means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Final
from urllib.parse import urlsplit

from gateway.core.decision import Effect
from gateway.core.documents import (
    DocumentError,
    DocumentFile,
    Finding,
    Node,
    TextScalar,
    check_known,
    flag,
    known_members,
    members,
    nodes,
    number,
    quoted,
    text,
    text_scalar,
    texts,
    whole_number,
)
from gateway.core.patterns import PatternError, parse_action_pattern, parse_channel_pattern

POLICY_VERSION: Final = 1
DOCUMENT_MEMBERS: Final = ("version", "roles", "channels", "routes")
ROLE_MEMBERS: Final = ("description", "inherits", "allow", "deny")
ALLOW_MEMBERS: Final = ("actions", "channels", "signed", "rate", "when")
DENY_MEMBERS: Final = ("actions", "channels", "when")
RATE_MEMBERS: Final = ("per_s", "burst")
CHANNEL_MEMBERS: Final = ("match", "history", "presence")
HISTORY_MEMBERS: Final = ("messages", "ttl_s")
ROUTE_MEMBERS: Final = ("actions", "upstream")
UPSTREAM_MEMBERS: Final = ("url", "timeout_s")

MAX_HISTORY_MESSAGES: Final = 1_000_000
MAX_HISTORY_TTL_S: Final = 31_536_000.0
DEFAULT_HISTORY_TTL_S: Final = 3600.0
LEAST_RATE_PER_S: Final = 0.0001
MAX_RATE_PER_S: Final = 1_000_000.0
DEFAULT_UPSTREAM_TIMEOUT_S: Final = 5.0
MAX_UPSTREAM_TIMEOUT_S: Final = 300.0

# What a scope may be made of (RFC 6749 section 3.3), without what would need quoting in a URL or on a command line.
_ROLE_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a rule may be used: a bucket of `burst` that fills at `per_s` a second."""

    per_s: float
    burst: float


@dataclass(frozen=True, slots=True)
class RuleText:
    """A rule as written.

    Args:
        file: The file's name.
        line: The line that it begins on.
        role: The role that it stands in.
        effect: Allow or deny.
        actions: Patterns of actions, parsed.
        channels: Patterns of channels, parsed; None for a rule about commands without a channel.
        signed: Whether it holds on signed connections only.
        rate: How often it may be used, or None.
        when: The text of its condition, or None.
        when_line: The line of that text.
        action_lines: The line of each pattern in `actions`.
    """

    file: str
    line: int
    role: str
    effect: Effect
    actions: tuple[tuple[str, ...], ...]
    channels: tuple[tuple[str, ...], ...] | None
    signed: bool = False
    rate: Rate | None = None
    when: str | None = None
    when_line: int = 0
    action_lines: tuple[int, ...] = ()

    @property
    def location(self) -> str:
        """Name the rule as decisions do."""
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class RoleText:
    """A role as written, with the place of its name and of each parent's."""

    name: str
    file: str
    line: int
    description: str = ""
    inherits: tuple[tuple[str, int], ...] = ()
    rules: list[RuleText] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ChannelText:
    """An entry of `channels`: a pattern, and what its channels have."""

    match: tuple[str, ...]
    history_messages: int
    history_ttl_s: float
    presence: bool


@dataclass(frozen=True, slots=True)
class Route:
    """Actions that an upstream carries out.

    Args:
        location: `file:line` of the entry.
        actions: Patterns of actions, parsed.
        url: Where the upstream listens; http or https, without credentials.
        timeout_s: Seconds that it has for its answer.
    """

    location: str
    actions: tuple[tuple[str, ...], ...]
    url: str
    timeout_s: float


@dataclass(slots=True)
class PolicyText:
    """All files of a policy, merged in the order in which they came, and everything that is wrong with them."""

    roles: dict[str, RoleText] = field(default_factory=dict)
    channels: list[ChannelText] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read_policy(files: Iterable[DocumentFile]) -> PolicyText:
    """Read and merge documents; what is wrong is in the `findings` of the answer, and whatever has any must not be used."""
    policy = PolicyText()
    for file in files:
        if file.root is not None:
            _DocumentReader(file.name, policy).read(file.root)
    _check_inheritance(policy)
    return policy


class _DocumentReader:
    """Reads one file into a policy; an error ends the entry that it stands in and no more."""

    def __init__(self, file: str, policy: PolicyText) -> None:
        self._file = file
        self._policy = policy

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except DocumentError as error:
            self._policy.findings.append(Finding(self._file, error.line, error.reason))

    def read(self, root: Node) -> None:
        """Read the whole document."""
        with self._noting():
            found = self._known(root, "the policy", DOCUMENT_MEMBERS)
            with self._noting():
                if "version" in found:
                    whole_number(found["version"], "`version`", POLICY_VERSION, POLICY_VERSION)
            with self._noting():
                for name, (line, node) in members(found["roles"], "`roles`").items() if "roles" in found else ():
                    with self._noting():
                        self._role(name, line, node)
            with self._noting():
                for node in nodes(found["channels"], "`channels`") if "channels" in found else ():
                    with self._noting():
                        self._policy.channels.append(_channel(node))
            with self._noting():
                for node in nodes(found["routes"], "`routes`") if "routes" in found else ():
                    with self._noting():
                        self._policy.routes.append(self._route(node))

    def _known(self, node: Node, what: str, known: tuple[str, ...]) -> dict[str, Node]:
        """Read a mapping, note its unknown members, and go on with the others."""
        found: dict[str, Node] = {}
        for key, (line, value) in members(node, what).items():
            with self._noting():
                check_known(key, line, what, known)
                found[key] = value
        return found

    def _role(self, name: str, line: int, node: Node) -> None:
        if _ROLE_NAME.fullmatch(name) is None:
            raise DocumentError(line, f"{quoted(name)} is no name of a role: 1 to 64 of A-Z a-z 0-9 _ . : -")
        earlier = self._policy.roles.get(name)
        if earlier is not None:
            raise DocumentError(line, f"role {quoted(name)} is defined twice, first at {earlier.file}:{earlier.line}")
        role = RoleText(name, self._file, line)
        self._policy.roles[name] = role
        found = self._known(node, f"role {quoted(name)}", ROLE_MEMBERS)
        with self._noting():
            if "description" in found:
                role.description = text(found["description"], "`description`")
        with self._noting():
            if "inherits" in found:
                parents = [
                    text_scalar(node, "an entry of `inherits`") for node in nodes(found["inherits"], "`inherits`")
                ]
                role.inherits = tuple((parent.value, parent.line) for parent in parents)
        for member, effect in (("allow", Effect.ALLOW), ("deny", Effect.DENY)):
            with self._noting():
                for entry in nodes(found[member], f"`{member}`") if member in found else ():
                    with self._noting():
                        role.rules.append(self._rule(entry, name, effect))

    def _rule(self, node: Node, role: str, effect: Effect) -> RuleText:
        allows = effect is Effect.ALLOW
        found = known_members(node, f"`{effect.value}`", ALLOW_MEMBERS if allows else DENY_MEMBERS, ("actions",))
        actions = texts(found["actions"], "`actions`")
        return RuleText(
            file=self._file,
            line=node.line,
            role=role,
            effect=effect,
            actions=tuple(_action_pattern(entry) for entry in actions),
            action_lines=tuple(entry.line for entry in actions),
            channels=_channel_patterns(found["channels"]) if "channels" in found else None,
            signed=flag(found["signed"], "`signed`") if "signed" in found else False,
            rate=_rate(found["rate"]) if "rate" in found else None,
            when=text(found["when"], "`when`") if "when" in found else None,
            when_line=found["when"].line if "when" in found else 0,
        )

    def _route(self, node: Node) -> Route:
        found = known_members(node, "a route", ROUTE_MEMBERS, ROUTE_MEMBERS)
        upstream = known_members(found["upstream"], "`upstream`", UPSTREAM_MEMBERS, ("url",))
        timeout_s = DEFAULT_UPSTREAM_TIMEOUT_S
        if "timeout_s" in upstream:
            timeout_s = number(upstream["timeout_s"], "`timeout_s`", LEAST_RATE_PER_S, MAX_UPSTREAM_TIMEOUT_S)
        return Route(
            location=f"{self._file}:{node.line}",
            actions=tuple(_action_pattern(entry) for entry in texts(found["actions"], "`actions`")),
            url=_upstream_url(upstream["url"]),
            timeout_s=timeout_s,
        )


def _action_pattern(entry: TextScalar) -> tuple[str, ...]:
    try:
        return parse_action_pattern(entry.value)
    except PatternError as error:
        raise DocumentError(entry.line, f"{quoted(entry.value)} is no pattern of actions: {error}") from error


def _channel_pattern(entry: TextScalar, *, placeholders: bool) -> tuple[str, ...]:
    try:
        return parse_channel_pattern(entry.value, placeholders=placeholders)
    except PatternError as error:
        raise DocumentError(entry.line, f"{quoted(entry.value)} is no pattern of channels: {error}") from error


def _channel_patterns(node: Node) -> tuple[tuple[str, ...], ...]:
    return tuple(_channel_pattern(entry, placeholders=True) for entry in texts(node, "`channels`"))


def _rate(node: Node) -> Rate:
    found = known_members(node, "`rate`", RATE_MEMBERS, ("per_s",))
    per_s = number(found["per_s"], "`per_s`", LEAST_RATE_PER_S, MAX_RATE_PER_S)
    if "burst" not in found:
        return Rate(per_s, max(1.0, per_s))
    return Rate(per_s, number(found["burst"], "`burst`", 1, MAX_RATE_PER_S))


def _channel(node: Node) -> ChannelText:
    found = known_members(node, "an entry of `channels`", CHANNEL_MEMBERS, ("match",))
    match = _channel_pattern(text_scalar(found["match"], "`match`"), placeholders=False)
    messages, ttl_s = 0, 0.0
    if "history" in found:
        history = known_members(found["history"], "`history`", HISTORY_MEMBERS, ("messages",))
        messages = whole_number(history["messages"], "`messages`", 0, MAX_HISTORY_MESSAGES)
        ttl_s = DEFAULT_HISTORY_TTL_S
        if "ttl_s" in history:
            ttl_s = number(history["ttl_s"], "`ttl_s`", 1, MAX_HISTORY_TTL_S)
    return ChannelText(match, messages, ttl_s, flag(found["presence"], "`presence`") if "presence" in found else False)


def _upstream_url(node: Node) -> str:
    url = text(node, "`url`")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise DocumentError(node.line, f"{quoted(url)} is no http or https URL")
    if parts.username is not None or parts.password is not None:
        raise DocumentError(node.line, "`url` must not carry credentials: policies are read by many")
    return url


def _check_inheritance(policy: PolicyText) -> None:
    """Find unknown parents, and a cycle at the parent that closes it."""
    graph: dict[str, list[str]] = {}
    for role in policy.roles.values():
        for parent, line in role.inherits:
            if parent in policy.roles:
                graph.setdefault(role.name, []).append(parent)
            else:
                reason = f"role {quoted(role.name)} inherits unknown role {quoted(parent)}"
                policy.findings.append(Finding(role.file, line, reason))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # graphlib lists the cycle with its first node repeated at the end, each node a parent of the next.
        cycle: list[str] = error.args[1]
        heir = policy.roles[cycle[1]]
        line = next(line for parent, line in heir.inherits if parent == cycle[0])
        policy.findings.append(Finding(heir.file, line, f"roles inherit in a cycle: {' < '.join(cycle)}"))
