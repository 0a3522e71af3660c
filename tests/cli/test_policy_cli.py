"""`gateway policy`: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from gateway.cli.app import run
from gateway.settings import shipped_policy_dir

POLICY = """\
version: 1
roles:
  viewer:
    allow:
      - actions: [channel.subscribe]
        channels: ["room:{tenant}:*"]
  member:
    description: Talks.
    inherits: [viewer]
    allow:
      - actions: [channel.publish]
        channels: ["room:{tenant}:*"]
      - actions: ["orders.*"]
        signed: true
        rate: {per_s: 20, burst: 40}
        when: "data.amount <= 1000 && principal.claims.desk == 'fx'"
      - actions: [home]
        when: connection.ip == '192.0.2.7' && connection.origin == 'https://app.example'
    deny:
      - actions: [channel.publish]
        channels: ["room:*:announcements"]
channels:
  - match: "room:*:*"
    history: {messages: 1000, ttl_s: 600}
    presence: true
routes:
  - actions: ["orders.*"]
    upstream: {url: "http://orders.internal/actions", timeout_s: 5}
"""

ORDER = "data.amount <= 1000 && principal.claims.desk == 'fx'"
HOME = "connection.ip == '192.0.2.7' && connection.origin == 'https://app.example'"

SECRET = "k9QvX2mT7bLr4WzN8pYc3HsJ6dGf5AeU"

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a policy, which is no place that a command would look at by itself."""
    monkeypatch.delenv("GATEWAY_POLICY_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "deploy"
    directory.mkdir()
    (directory / "policy.yaml").write_text(POLICY)
    return directory


def test_the_help_of_every_command_has_an_example(capsys: Capture) -> None:
    for command in ("lint", "test", "explain", "show"):
        assert run(["policy", command, "--help"]) == 0
        assert f"  gateway policy {command}" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ lint


def test_lint_prints_the_version_and_exits_0(policies: Path, capsys: Capture) -> None:
    assert run(["policy", "lint", "--dir", str(policies)]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"version [0-9a-f]{12}: 2 roles, 5 rules\n", out)
    assert err == ""


def test_lint_prints_each_finding_with_its_place_and_exits_1(policies: Path, capsys: Capture) -> None:
    (policies / "more.yaml").write_text("roles:\n  a:\n    alow: []\n  b:\n    inherits: [c]\n")
    (policies / "other.yml").write_text("")
    assert run(["policy", "lint", "--dir", str(policies)]) == 1
    out, err = capsys.readouterr()
    known = "description, inherits, allow, deny"
    assert out.splitlines() == [
        f"{policies}/more.yaml:3: unknown member `alow` in role `a`; known are {known}",
        f"{policies}/more.yaml:5: role `b` inherits unknown role `c`",
        f"{policies}/other.yml:1: not read; name it *.yaml",
    ]
    assert err == f"gateway: 3 findings in `{policies}`; see the lines above\n"


def test_lint_finds_a_rule_without_channels_that_names_a_channel_action(policies: Path, capsys: Capture) -> None:
    (policies / "policy.yaml").write_text("roles:\n  a:\n    allow:\n      - actions: [channel.publish]\n")
    assert run(["policy", "lint", "--dir", str(policies), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert re.fullmatch("[0-9a-f]{12}", found["version"])
    assert [(finding["file"], finding["line"]) for finding in found["findings"]] == [("policy.yaml", 4)]
    assert found["findings"][0]["reason"].startswith("`channel.publish` always has a channel")


def test_lint_of_a_refused_policy_has_no_version(policies: Path, capsys: Capture) -> None:
    (policies / "policy.yaml").write_text("roles: [")
    assert run(["policy", "lint", "--dir", str(policies), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["version"] is None


def test_lint_of_an_empty_directory_is_a_finding_and_of_none_wrong_usage(
    policies: Path, tmp_path: Path, capsys: Capture
) -> None:
    (policies / "policy.yaml").unlink()
    assert run(["policy", "lint", "--dir", str(policies)]) == 1
    assert capsys.readouterr().out == f"{policies}: no *.yaml file in the directory\n"
    assert run(["policy", "lint", "--dir", str(tmp_path / "gone")]) == 2
    assert "is no directory" in capsys.readouterr().err


def test_a_finding_cannot_write_to_the_terminal(policies: Path, capsys: Capture) -> None:
    (policies / "policy.yaml").write_text('roles: {"\\e[31mred": {}}\n')
    assert run(["policy", "lint", "--dir", str(policies)]) == 1
    assert "\x1b" not in "".join(capsys.readouterr())


# ------------------------------------------------------------------------------------------------ test


def test_test_runs_the_tests_of_the_policy(policies: Path, capsys: Capture) -> None:
    (policies / "tests").mkdir()
    tests = policies / "tests" / "rooms.yaml"
    tests.write_text(
        "- {as: {role: member, tenant: acme, subject: alice}, action: channel.publish, channel: 'room:acme:1',"
        " expect: allow}\n"
        "- {as: {role: viewer, tenant: acme}, action: channel.publish, channel: 'room:acme:1', expect: deny}\n"
    )
    assert run(["policy", "test", "--dir", str(policies)]) == 0
    assert re.fullmatch(r"version [0-9a-f]{12}: 2 tests, 0 failed\n", capsys.readouterr().out)
    tests.write_text("- {as: {role: member}, action: channel.publish, channel: 'room:acme:1', expect: allow}\n")
    assert run(["policy", "test", "--dir", str(policies)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == (
        f"{policies}/tests/rooms.yaml:1: expected allow, got deny of `channel.publish` on `room:acme:1` (default)"
    )
    assert err == "gateway: 1 test failed; see the lines above\n"
    assert run(["policy", "test", "--dir", str(policies), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["line"] == 1


@pytest.mark.parametrize("text", ["- {as: {}}\n", "roles: {}\n", "- ["])
def test_test_exits_1_where_a_test_is_none(policies: Path, text: str) -> None:
    (policies / "tests").mkdir()
    (policies / "tests" / "t.yaml").write_text(text)
    assert run(["policy", "test", "--dir", str(policies)]) == 1


def test_test_says_that_there_are_none(policies: Path, capsys: Capture) -> None:
    assert run(["policy", "test", "--dir", str(policies)]) == 1
    assert capsys.readouterr().err == f"gateway: no tests; write some into `{policies}/tests`\n"


def test_test_names_the_file_of_tests_that_cannot_be_read(policies: Path, capsys: Capture) -> None:
    (policies / "tests").mkdir()
    (policies / "tests" / "empty.yaml").write_text("")
    assert run(["policy", "test", "--dir", str(policies)]) == 1
    told = f"gateway: the policy tests cannot be read: {policies}/tests/empty.yaml:1: the file is empty\n"
    assert capsys.readouterr().err == told


def test_test_exits_1_on_a_refused_policy(policies: Path, capsys: Capture) -> None:
    (policies / "policy.yaml").write_text("role: {}\nrolls: {}\n")
    assert run(["policy", "test", "--dir", str(policies)]) == 1
    assert capsys.readouterr().err == (
        f"gateway: the policy is refused: {policies}/policy.yaml:1: unknown member `role` in the policy; known are"
        " version, roles, channels, routes and 1 more finding; `gateway policy lint` shows all\n"
    )


def test_the_shipped_policy_passes_lint_and_its_own_tests(capsys: Capture) -> None:
    shipped = str(shipped_policy_dir())
    assert run(["policy", "lint", "--dir", shipped]) == 0
    assert run(["policy", "test", "--dir", shipped]) == 0
    assert " 0 failed" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ explain


PUBLISH = ("--tenant", "acme", "--subject", "alice", "--action", "channel.publish", "--channel")


def test_explain_prints_the_decision_with_its_rule_and_exits_0(policies: Path, capsys: Capture) -> None:
    assert run(["policy", "explain", "--dir", str(policies), "--role", "member", *PUBLISH, "room:acme:1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "allow: channel.publish on room:acme:1",
        "rule: policy.yaml:11, of role member",
        "reason: the rule says allow",
        "matching rules:",
        "  allow channel.publish on room:{tenant}:*  [policy.yaml:11]",
    ]


def test_explain_exits_1_on_a_deny(policies: Path, capsys: Capture) -> None:
    assert run(["policy", "explain", "--dir", str(policies), "--role", "member", *PUBLISH, "room:x:announcements"]) == 1
    assert capsys.readouterr().out.splitlines()[:3] == [
        "deny: channel.publish on room:x:announcements",
        "rule: policy.yaml:20, of role member",
        "reason: the rule says deny",
    ]
    assert run(["policy", "explain", "--dir", str(policies), "--role", "viewer", *PUBLISH, "room:acme:1"]) == 1
    assert "rule: default\nreason: no rule allows it\n" in capsys.readouterr().out


def explained(policies: Path, capsys: Capture, *arguments: str) -> tuple[int, dict[str, object]]:
    code = run(["policy", "explain", "--dir", str(policies), "--json", "--role", "member", *arguments])
    return code, json.loads(capsys.readouterr().out)


def test_explain_takes_data_claims_and_a_signed_connection(policies: Path, capsys: Capture) -> None:
    order = ("--action", "orders.place", "--claim", "desk=fx")
    code, told = explained(policies, capsys, *order, "--signed", "--data", '{"amount": 5}')
    assert (code, told["effect"], told["reason"], told["rule"]) == (0, "allow", "rule", "policy.yaml:13")
    code, told = explained(policies, capsys, *order, "--data", '{"amount": 5}')
    assert (code, told["reason"], told["code"], told["detail"]) == (1, "obligation", "signature_required", "signed")
    code, told = explained(policies, capsys, *order, "--signed", "--data", '{"amount": 5000}')
    assert (code, told["reason"], told["code"]) == (1, "condition", "permission_denied")
    code, told = explained(policies, capsys, *order, "--signed")
    assert (code, told["reason"]) == (1, "error")
    matching = told["matching"]
    assert matching == [
        {
            "rule": "policy.yaml:13",
            "role": "member",
            "effect": "allow",
            "actions": ["orders.*"],
            "signed": True,
            "rate": {"per_s": 20, "burst": 40},
            "when": "data.amount <= 1000 && principal.claims.desk == 'fx'",
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--action", "orders.place", "--signed"), "reason: `when` has no answer: "),
        (("--action", "home"), "reason: `when` does not hold"),
        (
            ("--action", "orders.place", "--claim", "desk=fx", "--data", '{"amount": 5}'),
            "reason: `signed` is not met",
        ),
    ],
)
def test_explain_says_why_in_words(policies: Path, capsys: Capture, arguments: tuple[str, ...], reason: str) -> None:
    assert run(["policy", "explain", "--dir", str(policies), "--role", "member", *arguments]) == 1
    assert reason in capsys.readouterr().out


def test_explain_takes_an_address_and_an_origin(policies: Path, capsys: Capture) -> None:
    home = ("--action", "home", "--ip", "192.0.2.7", "--origin", "https://app.example")
    assert explained(policies, capsys, *home)[0] == 0
    assert explained(policies, capsys, *home[:-2])[0] == 1


def test_explain_notes_a_role_that_the_policy_does_not_know(policies: Path, capsys: Capture) -> None:
    assert run(["policy", "explain", "--dir", str(policies), "--role", "membr", *PUBLISH, "room:acme:1"]) == 1
    assert capsys.readouterr().err == "role `membr` is not in this policy, so it grants nothing\n"


def test_explain_knows_that_some_actions_need_no_permission(policies: Path, capsys: Capture) -> None:
    assert run(["policy", "explain", "--dir", str(policies), "--role", "viewer", "--action", "ping"]) == 0
    assert "reason: needs no permission" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--action", "x"), "name whom to ask for"),
        (("--action", "x", "--tenant", "acme", "--subject", "alice"), "name whom to ask for"),
        (("--role", "member"), "missing option `--action`"),
        (("--role", "member", "--action", "channel.publish"), "`channel.publish` needs a channel"),
        (("--role", "member", "--action", "channel.publish", "--channel", "a b"), "`a b` is no channel name"),
        (("--role", "member", "--action", "broadcast", "--channel", "a"), "`broadcast` takes no channel"),
        (("--role", "member", "--action", "orders.*"), "`orders.*` is a pattern"),
        (("--role", "member", "--action", "x", "--data", "{"), "`--data` is no JSON"),
        (("--role", "member", "--action", "x", "--data", "NaN"), "`--data` is no JSON"),
        (("--role", "member", "--action", "x", "--data", "[" * 5000 + "]" * 5000), "`--data` is no JSON"),
        (("--role", "member", "--action", "x", "--ip", "localhost"), "`--ip` `localhost` is no IP address"),
        (("--role", "member", "--action", "x", "--claim", "desk"), "a claim is written `--claim name=value`"),
        (("--role", "member", "--action", "x", "--dir", "gone"), "`gone` is no directory"),
        (("--role", "member", "--action", "x", "--nonsense"), "no such option"),
    ],
)
def test_explain_exits_2_on_arguments_that_make_no_question(
    policies: Path, capsys: Capture, arguments: tuple[str, ...], error: str
) -> None:
    assert run(["policy", "explain", "--dir", str(policies), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert error in err
    assert err.count("\n") == 1


def test_explain_exits_2_on_a_refused_policy_for_that_is_no_deny(policies: Path, capsys: Capture) -> None:
    (policies / "policy.yaml").write_text("roles: [")
    assert run(["policy", "explain", "--dir", str(policies), "--role", "a", "--action", "x"]) == 2
    assert capsys.readouterr().err.startswith("gateway: the policy is refused: ")


def test_explain_with_a_subject_alone_takes_the_stored_account(
    policies: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name, value in {"SECRET_KEY": SECRET, "DATA_DIR": policies.parent / "data", "POLICY_DIR": policies}.items():
        monkeypatch.setenv(f"GATEWAY_{name}", str(value))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"correct horse battery\n")))
    account = ("--role", "member", "--tenant", "acme", "--claim", "desk=fx", "--password-stdin")
    assert run(["users", "add", "alice", *account]) == 0
    capsys.readouterr()
    question = ("policy", "explain", "--subject", "alice", "--json", "--action", "channel.publish", "--channel")
    assert run([*question, "room:acme:1"]) == 0
    assert json.loads(capsys.readouterr().out)["principal"] == {
        "subject": "alice",
        "tenant": "acme",
        "roles": ["member"],
        "claims": {"desk": "fx"},
    }
    assert run([*question, "room:globex:1"]) == 1
    assert run(["users", "disable", "alice"]) == 0
    capsys.readouterr()
    assert run([*question, "room:acme:1"]) == 0
    assert capsys.readouterr().err == "`alice` is disabled, so it cannot connect; this is what its roles say\n"


def test_explain_exits_2_where_there_is_no_such_account(
    policies: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("GATEWAY_POLICY_DIR", str(policies))
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(policies.parent / "data"))
    monkeypatch.delenv("GATEWAY_SECRET_KEY", raising=False)
    question = ("policy", "explain", "--subject", "bob", "--action", "ping")
    assert run(question) == 2
    assert capsys.readouterr().err.startswith("gateway: the account cannot be looked up: GATEWAY_SECRET_KEY: ")
    monkeypatch.setenv("GATEWAY_SECRET_KEY", SECRET)
    assert run(question) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "gateway: no account `bob`; give `--role` to ask for an imagined one\n")


# ------------------------------------------------------------------------------------------------ show


def test_show_prints_the_merged_policy(policies: Path, capsys: Capture) -> None:
    assert run(["policy", "show", "--dir", str(policies)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch("version [0-9a-f]{12}", lines[0])
    assert lines[1:] == [
        "",
        "member (inherits viewer)",
        "  Talks.",
        "  allow channel.publish on room:{tenant}:*  [policy.yaml:11]",
        f"  allow orders.* signed at most 20 a second (burst 40) when {ORDER}  [policy.yaml:13]",
        f"  allow home when {HOME}  [policy.yaml:17]",
        "  deny  channel.publish on room:*:announcements  [policy.yaml:20]",
        "",
        "viewer",
        "  allow channel.subscribe on room:{tenant}:*  [policy.yaml:5]",
        "",
        "channels, the first match counting",
        "  room:*:*  history: 1000 messages for 600 s, presence: yes",
        "",
        "routes, the first match counting",
        "  orders.*  to http://orders.internal/actions within 5 s  [policy.yaml:27]",
    ]


def test_show_prints_one_role_with_those_that_it_inherits(policies: Path, capsys: Capture) -> None:
    (policies / "more.yaml").write_text("roles: {other: {}}\nchannels: [{match: '**'}]\n")
    assert run(["policy", "show", "--dir", str(policies), "--role", "member", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [role["name"] for role in shown["roles"]] == ["member", "viewer"]
    assert shown["roles"][0]["inherits"] == ["viewer"]
    assert [entry["match"] for entry in shown["channels"]] == ["**", "room:*:*"]
    assert shown["routes"][0]["upstream"] == {"url": "http://orders.internal/actions", "timeout_s": 5}
    assert run(["policy", "show", "--dir", str(policies), "--role", "nobody"]) == 2
    assert capsys.readouterr().err == "gateway: no role `nobody`; the policy has member, other, viewer\n"


def test_show_prints_the_schema(capsys: Capture) -> None:
    assert run(["policy", "show", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Portcullis policy"


def test_show_exits_1_on_a_refused_policy(policies: Path) -> None:
    (policies / "policy.yaml").write_text("roles: [")
    assert run(["policy", "show", "--dir", str(policies)]) == 1


# ------------------------------------------------------------------------------------------------ where it looks


def test_the_directory_is_the_named_one_then_the_environments_then_policies_here_then_the_shipped_one(
    policies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def roles() -> set[str]:
        assert run(["policy", "show", "--json"]) == 0
        return {role["name"] for role in json.loads(capsys.readouterr().out)["roles"]}

    assert "auditor" in roles()
    (tmp_path / "policies").mkdir()
    assert "auditor" in roles()
    (tmp_path / "policies" / "a.yaml").write_text("roles: {here: {}}")
    assert roles() == {"here"}
    monkeypatch.setenv("GATEWAY_POLICY_DIR", str(policies))
    assert roles() == {"member", "viewer"}
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "a.yaml").write_text("roles: {given: {}}")
    assert run(["policy", "show", "--json", "--dir", str(tmp_path / "given")]) == 0
    assert '"given"' in capsys.readouterr().out
