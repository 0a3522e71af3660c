from __future__ import annotations

import json
import re

import pytest

from gateway.cli.app import run
from gateway.cli.version import current


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert re.fullmatch(r"portcullis \d+\.\d+\.\d+\S* \(Python 3\.\d+\.\d+\S*\)\n", capsys.readouterr().out)


def test_version_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["version"] == current()
    assert set(printed) == {"version", "python", "platform"}
