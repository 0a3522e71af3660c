"""Rules that are allowed to be written and decide nothing."""

from __future__ import annotations

import pytest
from policy_texts import policy, written

from gateway.core.commands import ActionRegistry
from gateway.core.policy_lint import lint

ALWAYS = "always has a channel, and a rule without `channels` applies only where there is none"
NEVER = "never has a channel, and a rule with `channels` applies only where there is one"


def found(rule: str, effect: str = "allow") -> list[str]:
    text = f"roles:\n  member:\n    {effect}:\n      - {rule}\n"
    return [line.removeprefix("policy.yaml:4: ") for line in written(lint(policy(text), ActionRegistry()))]


@pytest.mark.parametrize(
    "action", ["channel.publish", "channel.*", "channel.**", "api.publish", "api.channels.history", "*.publish"]
)
def test_a_rule_without_channels_that_names_an_action_on_channels_is_found(action: str) -> None:
    assert found(f"{{actions: ['{action}']}}") == [f"`{action}` {ALWAYS}"]
    assert found(f"{{actions: ['{action}']}}", "deny") == [f"`{action}` {ALWAYS}"]
    assert found(f"{{actions: ['{action}'], channels: ['**']}}") == []


@pytest.mark.parametrize("action", ["user.send", "user.*", "broadcast"])
def test_a_rule_with_channels_that_names_an_action_without_is_found(action: str) -> None:
    assert found(f"{{actions: ['{action}'], channels: ['**']}}") == [f"`{action}` {NEVER}"]
    assert found(f"{{actions: ['{action}']}}") == []


@pytest.mark.parametrize(
    "action", ["**", "*.*", "orders.place", "orders.*", "api.users.*", "api.*", "ping", "channel.publish.now.**"]
)
def test_a_rule_that_may_decide_something_is_not_found(action: str) -> None:
    assert found(f"{{actions: ['{action}']}}") == []


def test_a_misspelt_action_of_the_gateway_is_found() -> None:
    assert found("{actions: [channel.publsh], channels: ['**']}") == ["`channel.publsh` is no action of the gateway"]
    assert found("{actions: [session.end]}") == ["`session.end` is no action of the gateway"]


def test_a_deny_of_what_needs_no_permission_is_found() -> None:
    assert found("{actions: [ping]}", "deny") == ["`ping` needs no permission, so a deny does not stop it"]
    assert found("{actions: [channel.unsubscribe], channels: ['**']}") == []


def test_each_finding_has_the_line_of_its_action() -> None:
    text = "roles:\n  member:\n    allow:\n      - actions:\n        - broadcast\n        - channel.publish\n"
    assert written(lint(policy(text), ActionRegistry())) == [f"policy.yaml:6: `channel.publish` {ALWAYS}"]
