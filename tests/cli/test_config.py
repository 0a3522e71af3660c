from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.cli.app import run
from gateway.settings import Settings, load_settings

SECRET = "k9QvX2mT7bLr4WzN8pYc3HsJ6dGf5AeU"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ENVIRONMENT", "SECRET_KEY", "CONFIG", "DATA_DIR"):
        monkeypatch.delenv(f"GATEWAY_{name}", raising=False)


def test_check_says_that_settings_are_good(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET_KEY", SECRET)
    monkeypatch.setenv("GATEWAY_DRAIN_S", "5")
    assert run(["config", "check"]) == 0
    total = len(Settings.model_fields)
    assert capsys.readouterr().out == f"the settings are good: production, 2 of {total} stated\n"
    assert run(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"environment": "production", "stated": 2}


def test_check_exits_1_with_a_line_for_each_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DRAIN", "5")
    assert run(["config", "check"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[1] for line in err.splitlines()] == ["GATEWAY_DRAIN", "GATEWAY_SECRET_KEY"]


def test_check_names_what_this_release_cannot_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET_KEY", SECRET)
    monkeypatch.setenv("GATEWAY_BROKER_URL", "redis://:hunter2@cache")
    assert run(["config", "check"]) == 1
    _, err = capsys.readouterr()
    assert "for which this release has no adapter yet" in err
    assert "hunter2" not in err


def test_show_masks_secrets_and_tells_where_values_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET_KEY", SECRET)
    monkeypatch.setenv("GATEWAY_ALLOWED_ORIGINS", "https://a.example,https://b.example")
    assert run(["config", "show"]) == 0
    out, _ = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert set(rows) == set(Settings.model_fields)
    assert rows["secret_key"].split() == ["secret_key", "**********", "environment"]
    assert "https://a.example, https://b.example" in rows["allowed_origins"]
    assert rows["docs"].split() == ["docs", "off", "default"]
    assert SECRET not in out
    assert run(["config", "show", "--json"]) == 0
    out, _ = capsys.readouterr()
    assert SECRET not in out
    assert json.loads(out)["allowed_origins"] == {
        "value": ["https://a.example", "https://b.example"],
        "origin": "environment",
    }


def test_show_dev_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--dev"]) == 0
    assert "generated" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_commands_in_a_development_folder_act_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    load_settings({}, development=True)
    assert run(["config", "check"]) == 0
    assert "development" in capsys.readouterr().out


def test_page_shows_what_check_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    command, shown = re.findall(r"```console\n\$ (.*?) gateway config check\n(.*?)```", page, re.DOTALL)[0]
    for assignment in command.split():
        monkeypatch.setenv(*assignment.split("="))
    assert run(["config", "check"]) == 1
    assert capsys.readouterr().err == shown
