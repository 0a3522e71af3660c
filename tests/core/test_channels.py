from __future__ import annotations

import pytest

from gateway.core.channels import valid_channel


@pytest.mark.parametrize(
    "name",
    [
        "lobby",
        "room:acme:1",
        "a" * 64,
        ":".join(["a"] * 16),
        ":".join(["a" * 63] * 4)[:255],
        "user:acme:issuer|alice@example.org",
        "x.y_z+=~-|@",
    ],
)
def test_a_well_formed_channel_name_is_valid(name: str) -> None:
    assert valid_channel(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "room:",
        ":room",
        "room::1",
        "a" * 65,
        ":".join(["a"] * 17),
        ":".join(["a"] * 1000),
        ":".join(["a" * 63] * 4) + "b",
        "room:*",
        "room:**",
        "room:{tenant}",
        "room 1",
        "room\n",
        "room:1\n",
        "room\x00",
        "röm",
        "room/1",
        "room:\ud800",
        "\u202eroom",
        "\uff52oom",
    ],
)
def test_a_malformed_channel_name_is_not_valid(name: str) -> None:
    assert not valid_channel(name)
