"""Which files make a policy, what they may be, and what the version is."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from policy_texts import conditions

from gateway.adapters.policy_files import (
    MAX_FILE_BYTES,
    MAX_FILES,
    load_policy,
    overlooked_files,
    policy_schema,
    read_directory,
)
from gateway.core import policy_document
from gateway.core.policy import PolicyRefusedError
from gateway.settings import shipped_policy_dir


def refusals(directory: Path) -> list[str]:
    with pytest.raises(PolicyRefusedError) as refused:
        load_policy(directory, conditions())
    return [str(finding) for finding in refused.value.findings]


def test_the_yaml_files_directly_in_the_directory_are_merged_in_file_name_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("roles: {b: {}}\nchannels: [{match: '**', presence: true}]\n")
    (tmp_path / "a.yaml").write_text("roles: {a: {inherits: [b]}}\nchannels: [{match: 'x:*'}]\n")
    (tmp_path / "B.yaml").write_text("# capitals come first\n")
    (tmp_path / "c.yml").write_text("roles: {c: {}}")
    (tmp_path / ".hidden.yaml").write_text("roles: {hidden: {}}")
    (tmp_path / "readme.md").write_text("no policy")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "t.yaml").write_text("- broken")
    (tmp_path / "folder.yaml").mkdir()
    policy = load_policy(tmp_path, conditions())
    assert policy.roles == {"a", "b"}
    assert not policy.channel_options("x:1").presence
    assert policy.channel_options("y").presence
    assert [name for name, _ in read_directory(tmp_path).files] == ["B.yaml", "a.yaml", "b.yaml"]


def test_the_version_is_that_of_sha256_over_the_files_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"roles: {b: {}}\r\n")
    (tmp_path / "a.yaml").write_bytes(b"roles: {a: {}}\n")
    digest = hashlib.sha256(b"roles: {a: {}}\nroles: {b: {}}\r\n").hexdigest()
    assert load_policy(tmp_path, conditions()).version == digest[:12]


def test_an_empty_directory_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    assert refusals(tmp_path) == [f"{tmp_path}: no *.yaml file in the directory"]
    assert refusals(tmp_path / "gone") == [f"{tmp_path}/gone: cannot be read: No such file or directory"]
    (tmp_path / "file").write_text("")
    assert refusals(tmp_path / "file") == [f"{tmp_path}/file: cannot be read: Not a directory"]


def test_a_file_of_one_mebibyte_is_read_and_a_larger_one_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (MAX_FILE_BYTES - 1) + b"\n")
    assert load_policy(tmp_path, conditions()).roles == frozenset()
    (tmp_path / "a.yaml").write_bytes(b"#" * MAX_FILE_BYTES + b"\n")
    assert refusals(tmp_path) == ["a.yaml:1: the file is larger than 1048576 bytes"]


def test_a_file_that_was_cut_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("roles: {a: {}}")
    (tmp_path / "b.yaml").write_text("")
    assert refusals(tmp_path) == ["b.yaml:1: the file is empty"]


def test_more_than_a_thousand_files_are_refused(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 1):
        (tmp_path / f"{number}.yaml").write_text("#\n")
    assert refusals(tmp_path) == [f"{tmp_path}: more than 1000 files"]


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "a.yaml").write_text("roles: {a: {}}")
    assert load_policy(tmp_path, conditions()).roles == {"a"}


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to(tmp_path / "gone")
    assert refusals(tmp_path) == [f"{tmp_path}: cannot be read: No such file or directory"]


def test_every_file_that_cannot_be_parsed_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"roles:\n  \xff: {}\n")
    (tmp_path / "b.yaml").write_text("roles: {a: {}")
    (tmp_path / "c.yaml").write_text("roles: {c: {}}")
    found = refusals(tmp_path)
    assert len(found) == 2
    assert found[0] == "a.yaml:2: the file is not UTF-8"
    assert found[1].startswith("b.yaml:2: no YAML: ")


def test_files_that_look_like_policies_and_are_not_read_are_told(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml", "c.YAML", "d.txt"):
        (tmp_path / name).write_text("#\n")
    assert [str(finding) for finding in overlooked_files(tmp_path)] == [
        "b.yml:1: not read; name it *.yaml",
        "c.YAML:1: not read; name it *.yaml",
    ]
    assert overlooked_files(tmp_path / "gone") == []


# ------------------------------------------------------------------------------------------------ the schema


def test_the_schema_knows_the_members_that_the_reader_knows() -> None:
    schema = json.loads(policy_schema())
    defined = schema["$defs"]
    members = {
        "DOCUMENT_MEMBERS": schema,
        "ROLE_MEMBERS": defined["role"],
        "ALLOW_MEMBERS": defined["allow"],
        "DENY_MEMBERS": defined["deny"],
        "RATE_MEMBERS": defined["allow"]["properties"]["rate"],
        "CHANNEL_MEMBERS": defined["channel"],
        "HISTORY_MEMBERS": defined["channel"]["properties"]["history"],
        "ROUTE_MEMBERS": defined["route"],
        "UPSTREAM_MEMBERS": defined["route"]["properties"]["upstream"],
    }
    for name, part in members.items():
        assert set(part["properties"]) == set(getattr(policy_document, name)), name
        assert part["additionalProperties"] is False
    assert {name for name in dir(policy_document) if name.endswith("_MEMBERS")} == set(members)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("actions", ["a", "a.b", "a.*", "a.**", "**", "*", "*.b", "a-b_c.D9"], ["", "a..b", "a.", "a*", "**.a", "a:b"]),
        (
            "channels",
            ["a", "a:b", "a:*", "a:**", "**", "{tenant}", "a:{subject}:{claims.x}:*", "a.b@c|d+e=f~g-h"],
            ["", "a::b", "a:", "a*", "**:a", "{tennant}", "{claims.}", "a{tenant}", "a/b", "ä"],
        ),
    ],
)
def test_the_schema_takes_the_patterns_that_the_reader_takes(kind: str, good: list[str], bad: list[str]) -> None:
    pattern = re.compile(json.loads(policy_schema())["$defs"][kind]["items"]["pattern"])
    assert [text for text in good if not pattern.search(text)] == []
    assert [text for text in bad if pattern.search(text)] == []


# ------------------------------------------------------------------------------------------------ the shipped policy


def test_the_shipped_policy_defines_the_roles_that_are_documented() -> None:
    policy = load_policy(shipped_policy_dir(), conditions())
    assert policy.roles == {"viewer", "member", "moderator", "publisher", "operator", "auditor", "admin"}
    assert all(role.description for role in policy.text.roles.values())
