from __future__ import annotations

import pytest

from gateway.client.reconnection import LONGEST_WAIT_S, Credential, Return, back_off_s, next_step
from gateway.core.errors import Closes, Refusal


@pytest.mark.parametrize("code", [1006, 1011, 1013])
def test_client_comes_back_with_jittered_back_off(code: int) -> None:
    assert next_step(code, "", told_s=None, failures=2, chance=1.0) == Return(2.0, Credential.SAME)
    assert next_step(code, "", told_s=None, failures=2, chance=0.0) == Return(1.0, Credential.SAME)


def test_client_comes_back_after_1001_when_it_was_told_to() -> None:
    assert next_step(1001, "", told_s=3.25, failures=7, chance=0.5) == Return(3.25, Credential.SAME)
    assert next_step(1001, "", told_s=None, failures=0, chance=1.0) == Return(0.5, Credential.SAME)


def test_rate_limited_is_the_one_verdict_that_waiting_heals() -> None:
    assert next_step(1008, "rate_limited", told_s=None, failures=0, chance=1.0) == Return(0.5, Credential.SAME)


@pytest.mark.parametrize("reason", ["expired_token", "invalid_ticket"])
def test_ended_credential_is_replaced_at_once_and_then_with_back_off(reason: str) -> None:
    assert next_step(1008, reason, told_s=None, failures=0, chance=1.0) == Return(0.0, Credential.NEW)
    assert next_step(1008, reason, told_s=None, failures=1, chance=1.0) == Return(1.0, Credential.NEW)


def test_client_stays_away_after_everything_else() -> None:
    heals = {"rate_limited", "expired_token", "invalid_ticket"}
    reasons = [refusal.value for refusal in Refusal]
    reasons += [close.reason for close in vars(Closes).values() if getattr(close, "code", 0) == 1008]
    for reason in set(reasons) - heals:
        assert next_step(1008, reason, told_s=1.0, failures=0, chance=0.5) is None, reason
    for code in (1000, 1002, 1003, 1007, 1009, 4000):
        assert next_step(code, "", told_s=1.0, failures=0, chance=0.5) is None, code


def test_back_off_doubles_up_to_its_bound_for_any_number_of_failures() -> None:
    assert [back_off_s(failures, 1.0) for failures in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert back_off_s(10**6, 1.0) == LONGEST_WAIT_S
