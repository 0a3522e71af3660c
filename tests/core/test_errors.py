"""The vocabulary of failures."""

from __future__ import annotations

from gateway.core.errors import Close, Closes, Refusal, refusal_close


def test_every_refusal_is_a_1008_close_with_its_own_reason() -> None:
    assert {refusal_close(refusal) for refusal in Refusal} == {Close(1008, refusal.value) for refusal in Refusal}


def test_every_reason_fits_a_close_frame() -> None:
    closes = [value for name, value in vars(Closes).items() if isinstance(value, Close)]
    assert len(set(closes)) == len(closes)
    for close in closes:
        assert len(close.reason.encode()) <= 123
