"""`gateway users|clients|token|db`: what they print, how they end, and what they leave in the database."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from program import PROGRAM, clean_environment, gateway

from gateway.cli.app import run

SECRET = "kWZ7qv3mP0xTn8sYcR2eJ5uB9hL4dG6f-Zp1"
PASSWORD = "correct horse battery"
POLICY = """\
version: 1
roles:
  viewer: {allow: [{actions: [channel.subscribe], channels: ["room:{tenant}:*"]}]}
  member: {inherits: [viewer], allow: [{actions: [channel.publish], channels: ["room:{tenant}:*"]}]}
  publisher: {allow: [{actions: [channel.publish], channels: ["**"]}]}
"""


@dataclass
class Finished:
    """What a command has said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return json.loads(self.out)


Call = Callable[..., Finished]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GATEWAY_SECRET_KEY", SECRET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "policy.yaml").write_text(POLICY)
    return tmp_path


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    del folder

    def command(*arguments: str, stdin: str | bytes = "") -> Finished:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        code = run(arguments)
        out, err = capsys.readouterr()
        return Finished(code, out, err)

    return command


def add_alice(call: Call, *more: str) -> Finished:
    return call(
        "users", "add", "alice", "--role", "member", "--tenant", "acme", "--password-stdin", *more, stdin=PASSWORD
    )


def failed(finished: Finished, code: int = 1) -> str:
    """Give the one line that a failed command has said."""
    assert (finished.code, finished.out) == (code, "")
    assert re.fullmatch(r"gateway: [^A-Z\n][^\n]*[^.\n]\n", finished.err), finished.err
    return finished.err.removeprefix("gateway: ").rstrip("\n")


def names(call: Call) -> list[str]:
    listed = call("users", "list", "--json").json
    assert isinstance(listed, list)
    return [user["name"] for user in listed]


# ---------------------------------------------------------------------------------------------- users


def test_users_add_reads_the_password_and_keeps_the_user(call: Call) -> None:
    added = add_alice(call, "--claim", "department=sales", "--claim", "team=a=b")
    assert (added.code, added.err) == (0, "")
    assert added.out == "added `alice` with role `member`\n"
    listed = call("users", "list", "--json").json
    assert isinstance(listed, list)
    assert {name: listed[0][name] for name in listed[0] if name != "created_at"} == {
        "name": "alice",
        "tenant": "acme",
        "roles": ["member"],
        "claims": {"department": "sales", "team": "a=b"},
        "disabled": False,
        "development": False,
    }
    table = call("users", "list").out.splitlines()
    assert [line.split() for line in table] == [
        ["NAME", "TENANT", "ROLES", "STATE"],
        ["alice", "acme", "member", "enabled"],
    ]


def test_every_users_command_prints_json_when_asked(call: Call) -> None:
    assert add_alice(call, "--json").json["name"] == "alice"  # type: ignore[index]
    assert call("users", "set-roles", "alice", "--role", "viewer", "--json").json == {
        "name": "alice",
        "roles": ["viewer"],
    }
    assert call("users", "disable", "alice", "--json").json == {"name": "alice", "disabled": True}
    assert call("users", "enable", "alice", "--json").json == {"name": "alice", "disabled": False}
    changed = call("users", "set-password", "alice", "--password-stdin", "--json", stdin="another good password")
    assert changed.json == {"name": "alice"}
    assert call("users", "delete", "alice", "--json").json == {"name": "alice", "deleted": True}


@pytest.mark.parametrize("newline", ["", "\n", "\r\n"])
def test_exactly_one_trailing_newline_of_the_password_is_stripped(call: Call, newline: str) -> None:
    for length, code in ((11, 1), (12, 0)):
        name = f"user{length}"
        added = call("users", "add", name, "--password-stdin", stdin="x" * length + newline)
        assert added.code == code


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("", "a password has 12 to 128 characters"),
        ("x" * 11, "a password has 12 to 128 characters"),
        ("x" * 129, "a password has 12 to 128 characters"),
        ("twelve chars\n\n", "a password has no control characters and is valid UTF-8"),
        ("twelve\x00chars\n", "a password has no control characters and is valid UTF-8"),
        (b"\xff" * 20, "standard input is not UTF-8"),
        ("x" * 100_000, "standard input has more than 65536 bytes"),
    ],
)
def test_a_password_that_cannot_be_one_is_refused(call: Call, password: str | bytes, problem: str) -> None:
    assert failed(call("users", "add", "alice", "--password-stdin", stdin=password)) == problem
    assert names(call) == []


def test_without_a_terminal_the_password_has_to_be_piped_in(call: Call) -> None:
    told = failed(call("users", "add", "alice"), code=2)
    assert told == "no terminal to ask for the password; pipe it in and give `--password-stdin`"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("users", "add", "no name"), "an account's name has 1 to 64 characters of A-Z, a-z, 0-9 and `_.@+-`"),
        (("users", "add", "gateway"), "`gateway` is the name of the public client; choose another"),
        (
            ("users", "add", "alice", "--role", "emperor"),
            "the policy defines no role `emperor`; it defines `member`, `publisher`, `viewer`",
        ),
        (
            ("users", "add", "alice", "--claim", "sub=root"),
            "claim `sub` belongs to the token itself; choose another name",
        ),
        (
            ("users", "add", "alice", "--tenant", "a\tb"),
            "a tenant has at most 255 characters, none of them a control character",
        ),
    ],
)
def test_a_user_that_cannot_be_is_refused(call: Call, arguments: tuple[str, ...], problem: str) -> None:
    assert failed(call(*arguments, "--password-stdin", stdin=PASSWORD)) == problem
    assert names(call) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("users", "add", "alice", "--claim", "novalue"), "a claim is written `--claim name=value`"),
        (("users", "add", "alice", "--claim", "a=1", "--claim", "a=2"), "claim `a` is given twice"),
        (("users", "set-roles", "alice"), "give `--role` once or more, or `--no-roles`"),
        (
            ("users", "set-roles", "alice", "--role", "member", "--no-roles"),
            "give `--role` once or more, or `--no-roles`",
        ),
        (("users", "add"), "missing argument `NAME`; see `gateway users add --help`"),
        (("users", "promote"), "no such command `promote`; see `gateway users --help`"),
        (("token", "issue"), "missing option `--subject`; see `gateway token issue --help`"),
    ],
)
def test_what_is_not_understood_ends_with_2(call: Call, arguments: tuple[str, ...], problem: str) -> None:
    assert failed(call(*arguments), code=2) == problem


def test_a_name_that_is_taken_is_refused(call: Call) -> None:
    add_alice(call)
    taken = "there is an account `alice` already; users and clients share one name space"
    assert failed(add_alice(call)) == taken
    assert failed(call("clients", "add", "alice")) == taken


def test_commands_about_nobody_say_so(call: Call) -> None:
    for verb, *more in (("disable",), ("enable",), ("delete",), ("set-roles", "--role", "member")):
        told = failed(call("users", verb, "nobody", *more))
        assert told == "there is no user `nobody`; see `gateway users list`"


def test_set_roles_replaces_and_can_take_all_away(call: Call) -> None:
    add_alice(call)
    assert call("users", "set-roles", "alice", "--role", "viewer", "--role", "publisher").out == (
        "`alice` now has roles `publisher`, `viewer`\n"
    )
    assert call("users", "set-roles", "alice", "--no-roles").out == "`alice` now has no role\n"


def test_a_broken_policy_refuses_the_commands_that_take_roles_and_no_others(call: Call, folder: Path) -> None:
    add_alice(call)
    (folder / "policies" / "policy.yaml").write_text("roles: [")
    assert "policy.yaml" in failed(call("users", "set-roles", "alice", "--role", "member"))
    assert call("users", "disable", "alice").code == 0


# ---------------------------------------------------------------------------------------------- clients


def test_clients_add_prints_the_secret_once(call: Call) -> None:
    added = call("clients", "add", "billing", "--role", "publisher", "--tenant", "acme")
    match = re.fullmatch(r"client_id: billing\nclient_secret: ([A-Za-z0-9_-]{43})\n", added.out)
    assert match is not None
    assert added.err == "keep the secret now: it is not shown again\n"
    listed = call("clients", "list", "--json")
    assert match[1] not in listed.out
    assert {name: value for name, value in listed.json[0].items() if name != "created_at"} == {  # type: ignore[index]
        "client_id": "billing",
        "tenant": "acme",
        "roles": ["publisher"],
    }
    assert call("clients", "list").out.splitlines()[1].split() == ["billing", "acme", "publisher"]


def test_rotate_secret_keeps_the_old_one_a_day_unless_told_not_to(call: Call) -> None:
    first = call("clients", "add", "billing", "--json").json
    second = call("clients", "rotate-secret", "billing", "--json").json
    third = call("clients", "rotate-secret", "billing", "--now", "--json").json
    assert set(first) == set(third) == {"client_id", "client_secret"}  # type: ignore[call-overload]
    assert set(second) == {"client_id", "client_secret", "previous_secret_until"}  # type: ignore[call-overload]
    assert "the old secret counts until 20" in call("clients", "rotate-secret", "billing").err
    assert failed(call("clients", "rotate-secret", "nobody")) == (
        "there is no client `nobody`; see `gateway clients list`"
    )


def test_clients_delete_deletes(call: Call) -> None:
    call("clients", "add", "billing")
    assert call("clients", "delete", "billing").out == "`billing` is deleted; all tokens and connections end\n"
    call("clients", "add", "billing")
    assert call("clients", "delete", "billing", "--json").json == {"client_id": "billing", "deleted": True}
    assert call("clients", "list", "--json").json == []


# ---------------------------------------------------------------------------------------------- tokens


def test_an_issued_token_is_valid_and_says_what_it_is(call: Call) -> None:
    add_alice(call, "--claim", "department=sales")
    token = call("token", "issue", "--subject", "alice").out
    inspected = call("token", "inspect", "--json", stdin=token)
    assert inspected.code == 0
    said = inspected.json
    assert isinstance(said, dict)
    assert (said["state"], said["header"]["alg"], said["header"]["typ"]) == ("valid", "ES256", "at+jwt")
    claims = said["claims"]
    assert (claims["sub"], claims["roles"], claims["department"]) == ("alice", ["member"], "sales")
    assert (claims["iss"], claims["aud"]) == ("http://127.0.0.1:8000", "http://127.0.0.1:8000")
    assert call("token", "inspect", stdin=token).out.startswith("state: valid\nheader: {")


def test_token_issue_answers_as_the_token_endpoint_does(call: Call) -> None:
    add_alice(call)
    call("users", "set-roles", "alice", "--role", "member", "--role", "viewer")
    issued = call("token", "issue", "--subject", "alice", "--role", "viewer", "--ttl-s", "60", "--json").json
    assert isinstance(issued, dict)
    assert set(issued) == {"access_token", "token_type", "expires_in", "scope", "signing_key"}
    assert (issued["token_type"], issued["expires_in"], issued["scope"]) == ("bearer", 60, "viewer")
    said = call("token", "inspect", "--json", stdin=issued["access_token"]).json
    assert isinstance(said, dict)
    assert (said["claims"]["narrowed"], said["claims"]["roles"]) == (True, ["viewer"])
    assert said["claims"]["exp"] - said["claims"]["iat"] == 60


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--subject", "nobody"), "there is no account `nobody`; see `gateway users list` and `gateway clients list`"),
        (("--subject", "alice", "--role", "viewer"), "`alice` does not have role `viewer`; `--role` only narrows"),
    ],
)
def test_a_token_that_cannot_be_issued_says_why(call: Call, options: tuple[str, ...], problem: str) -> None:
    add_alice(call)
    assert failed(call("token", "issue", *options)) == problem


def test_a_token_needs_a_life_of_a_second_or_more(call: Call) -> None:
    add_alice(call)
    for ttl_s in ("0", "-1", "x", "1.5"):
        assert call("token", "issue", "--subject", "alice", "--ttl-s", ttl_s).code == 2


def test_inspecting_a_token_that_would_be_refused_ends_with_1_and_says_why(call: Call) -> None:
    add_alice(call)
    token = call("token", "issue", "--subject", "alice").out.strip()
    altered = call("token", "inspect", "--json", stdin=token[:-4] + "AAAA")
    assert (altered.code, altered.json["state"]) == (1, "invalid_token")  # type: ignore[index]
    call("users", "disable", "alice")
    revoked = call("token", "inspect", "--json", stdin=token)
    assert (revoked.code, revoked.json["state"]) == (1, "revoked_token")  # type: ignore[index]
    for junk in ("junk", "a.b.c", "🦄"):
        assert call("token", "inspect", stdin=junk).out.startswith("state: invalid_token\n")
    assert failed(call("token", "inspect", stdin=" \n"), code=2) == "give the token on standard input"


def issue(call: Call, *more: str) -> str:
    return call("token", "issue", "--subject", "alice", *more).out.strip()


def state(call: Call, token: str) -> object:
    return call("token", "inspect", "--json", stdin=token).json["state"]  # type: ignore[index]


def jti_of(call: Call, token: str) -> str:
    return str(call("token", "inspect", "--json", stdin=token).json["claims"]["jti"])  # type: ignore[index]


def test_a_revoked_token_is_refused_and_no_other(call: Call) -> None:
    add_alice(call)
    token, other = issue(call), issue(call)
    jti = jti_of(call, token)
    revoked = call("token", "revoke", stdin=token)
    assert (revoked.code, revoked.out) == (0, f"`{jti}` is revoked; its connections close within a second\n")
    assert [state(call, token), state(call, other)] == ["revoked_token", "valid"]
    again = call("token", "revoke", stdin=token)
    assert (again.code, again.out) == (0, f"`{jti}` was revoked before\n")
    by_name = call("token", "revoke", "--jti", jti_of(call, other), "--json")
    assert by_name.json == {
        "jti": jti_of(call, other),
        "issuer": "http://127.0.0.1:8000",
        "revoked": True,
        "expired": False,
    }
    assert state(call, other) == "revoked_token"


def test_a_long_token_that_was_revoked_by_name_stays_so(call: Call, folder: Path) -> None:
    add_alice(call)
    ttl_s = 400 * 86_400
    token = issue(call, "--ttl-s", str(ttl_s))
    call("token", "revoke", "--jti", jti_of(call, token))
    with sqlite3.connect(folder / ".gateway" / "gateway.db") as database:
        [(left_s,)] = database.execute("SELECT expires_at - unixepoch() FROM revocations").fetchall()
    database.close()
    assert left_s >= ttl_s - 10


def test_a_token_that_has_expired_needs_no_revoking(call: Call) -> None:
    add_alice(call)
    token = issue(call, "--ttl-s", "1")
    jti = jti_of(call, token)
    while state(call, token) != "expired_token":
        pass
    revoked = call("token", "revoke", stdin=token)
    assert (revoked.code, revoked.out) == (0, f"`{jti}` has expired; there is nothing to revoke\n")
    assert call("token", "revoke", "--json", stdin=token).json["expired"] is True  # type: ignore[index]


def test_a_token_whose_signature_does_not_hold_revokes_nothing(call: Call) -> None:
    add_alice(call)
    token = issue(call)
    for altered in (token[:-4] + "AAAA", "junk", "a.b.c"):
        assert failed(call("token", "revoke", stdin=altered)).startswith(
            "no key of this gateway has signed that token: "
        )
    assert state(call, token) == "valid"
    assert failed(call("token", "revoke", stdin="\n"), code=2) == "give the token on standard input, or its `--jti`"
    for jti in ("", "x" * 256, "a\nb"):
        assert failed(call("token", "revoke", "--jti", jti)) == "a `jti` has 1 to 255 printable characters"


# ---------------------------------------------------------------------------------------------- keys


def kids(call: Call) -> list[tuple[str, bool]]:
    return [(key["kid"], key["active"]) for key in call("keys", "list", "--json").json]  # type: ignore[attr-defined]


def test_rotated_keys_are_kept_for_their_tokens_and_dropped_keys_are_not(call: Call) -> None:
    add_alice(call)
    token = issue(call)
    [(first, _)] = kids(call)
    rotated = call("keys", "rotate")
    [(_, _), (second, _)] = kids(call)
    assert kids(call) == [(first, False), (second, True)]
    assert re.fullmatch(rf"`{second}` signs from now on; the old one is kept until \S+\n", rotated.out)
    assert state(call, token) == "valid"
    later = issue(call)
    dropped = call("keys", "rotate", "--now", "--json").json
    assert [key["active"] for key in dropped] == [True]  # type: ignore[attr-defined]
    assert [state(call, token), state(call, later), state(call, issue(call))] == ["invalid_token"] * 2 + ["valid"]


def test_a_retired_key_is_kept_as_long_as_the_longest_token_that_it_signed(call: Call) -> None:
    add_alice(call)
    issue(call, "--ttl-s", "100000")
    issue(call, "--ttl-s", "1000")
    call("keys", "rotate")
    old, new = call("keys", "list", "--json").json  # type: ignore[misc]
    assert old["kept_until"] == old["retired_at"] + 100_000 + 60
    assert (new["retired_at"], new["kept_until"]) == (None, None)


def test_listed_keys_show_nothing_secret(call: Call) -> None:
    call("keys", "rotate")
    listed = call("keys", "list")
    assert (listed.code, len(listed.out.splitlines())) == (0, 3)
    assert listed.out.splitlines()[0].split() == ["KEY", "STATE", "CREATED", "KEPT", "UNTIL"]
    [key, _] = call("keys", "list", "--json").json  # type: ignore[misc]
    assert set(key) == {"kid", "active", "created_at", "retired_at", "kept_until"}


# ---------------------------------------------------------------------------------------------- settings and database


def test_db_upgrade_makes_the_tables_and_says_whether_there_was_anything_to_do(call: Call) -> None:
    assert call("db", "upgrade").out == "the database is up to date\n"
    assert call("db", "upgrade").out == "the database was up to date already\n"
    assert call("db", "upgrade", "--json").json == {"changed": False}


def test_a_secret_that_is_missing_or_another_one_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    add_alice(call)
    call("token", "issue", "--subject", "alice")
    monkeypatch.setenv("GATEWAY_SECRET_KEY", SECRET[::-1])
    assert "set GATEWAY_SECRET_KEY to it" in failed(call("token", "issue", "--subject", "alice"))
    monkeypatch.setenv("GATEWAY_SECRET_KEY_PREVIOUS", SECRET)
    assert call("token", "issue", "--subject", "alice").code == 0
    monkeypatch.delenv("GATEWAY_SECRET_KEY")
    missing = call("users", "list")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith("gateway: GATEWAY_SECRET_KEY: is not set; give ")


def test_a_database_that_cannot_be_opened_is_told_in_one_line(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", f"sqlite+aiosqlite:///{folder}/missing/gateway.db")
    assert failed(call("users", "list")) == (
        f"the directory of the database, `{folder}/missing`, does not exist; make it first"
    )
    (folder / "junk.db").write_bytes(b"junk" * 1000)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", f"sqlite+aiosqlite:///{folder}/junk.db")
    assert failed(call("users", "list")) == f"the database `{folder}/junk.db` cannot be opened: file is not a database"


def test_what_a_later_release_brings_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql+asyncpg://gateway:x@127.0.0.1/gateway")
    assert "PostgreSQL" in failed(call("users", "list"))


@pytest.mark.parametrize(
    "command",
    [
        ("users", "add"),
        ("users", "list"),
        ("users", "set-roles"),
        ("users", "set-password"),
        ("users", "disable"),
        ("users", "enable"),
        ("users", "delete"),
        ("clients", "add"),
        ("clients", "list"),
        ("clients", "rotate-secret"),
        ("clients", "delete"),
        ("token", "issue"),
        ("token", "inspect"),
        ("token", "revoke"),
        ("keys", "list"),
        ("keys", "rotate"),
        ("db", "upgrade"),
    ],
)
def test_the_help_of_every_command_has_an_example(call: Call, command: tuple[str, ...]) -> None:
    helped = call(*command, "--help")
    assert helped.code == 0
    assert re.search(rf"Examples:\n    .*gateway {' '.join(command)}", helped.out)


# ---------------------------------------------------------------------------------------------- as a user starts them


def test_the_program_itself_ends_with_the_same_codes_and_one_line(folder: Path) -> None:
    environ = {"GATEWAY_SECRET_KEY": SECRET}
    added = gateway("users", "add", "alice", "--password-stdin", cwd=folder, stdin=PASSWORD, environ=environ)
    assert (added.returncode, added.stdout, added.stderr) == (0, "added `alice` with no role\n", "")
    again = gateway("users", "add", "alice", "--password-stdin", cwd=folder, stdin=PASSWORD, environ=environ)
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (1, "", 1)


def at_a_terminal(folder: Path, answers: tuple[bytes, bytes]) -> tuple[int, str, bytes]:
    """Run `users add alice` at a terminal that answers its two questions; give the code, the errors and what was shown."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "users", "add", "alice"],
        cwd=folder,
        env=clean_environment(GATEWAY_SECRET_KEY=SECRET),
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        said = b""
        for question, answer in zip((b"Password: ", b"Once more: "), answers, strict=True):
            while not said.endswith(question):
                octet = process.stderr.read(1)
                assert octet, said
                said += octet
            os.write(master, answer)
        rest = process.stderr.read()
    os.write(slave, b"#")  # so that there is something to read in any case
    shown = os.read(master, 10_000)
    os.close(slave)
    os.close(master)
    return process.returncode, rest.decode(), shown


def test_at_a_terminal_the_password_is_asked_for_twice_and_never_shown(folder: Path) -> None:
    typed = PASSWORD.encode() + b"\n"
    code, errors, shown = at_a_terminal(folder, (typed, b"something else\n"))
    assert (code, "the two differ; nothing has been changed" in errors) == (1, True)
    assert PASSWORD.encode() not in shown
    code, _, shown = at_a_terminal(folder, (typed, typed))
    assert (code, b"added `alice`" in shown) == (0, True)
    assert PASSWORD.encode() not in shown
