"""The subset of YAML that policies are written in, with lines, and the bombs that do not go off."""

from __future__ import annotations

import pytest

from gateway.adapters.yaml_documents import MAX_DEPTH, read_yaml
from gateway.core.documents import DocumentError, Items, Members, Scalar, plain


def refusal(content: bytes | str) -> tuple[int, str]:
    with pytest.raises(DocumentError) as refused:
        read_yaml(content.encode() if isinstance(content, str) else content)
    return refused.value.line, refused.value.reason


def test_a_tree_remembers_the_lines_of_its_nodes() -> None:
    assert read_yaml(b"a:\n  - 1\n  - b: x\n\nc: {d: [true]}\n") == Members(
        1,
        (
            (Scalar(1, "a"), Items(2, (Scalar(2, 1), Members(3, ((Scalar(3, "b"), Scalar(3, "x")),))))),
            (Scalar(5, "c"), Members(5, ((Scalar(5, "d"), Items(5, (Scalar(5, True),))),))),
        ),
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("+5", 5),
        ("0", 0),
        ("010", 10),
        ("5.", 5.0),
        (".5", 0.5),
        ("5.25", 5.25),
        ("1e3", 1000.0),
        ("9223372036854775807", 2**63 - 1),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("'null'", "null"),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">\n  a\n  b\n", "a b\n"),
        ("ä", "ä"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    tree = read_yaml(text.encode())
    assert isinstance(tree, Scalar)
    assert (tree.value, type(tree.value)) == (value, type(value))


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n", "\ufeff# nothing\n"])
def test_a_file_without_a_document_is_none(text: str) -> None:
    assert read_yaml(text.encode()) is None


def test_an_alias_stands_for_what_its_anchor_names() -> None:
    tree = read_yaml(b"a: &rooms [x, y]\nb: *rooms\nc: [&n 5, *n]")
    assert tree is not None
    assert plain(tree) == {"a": ["x", "y"], "b": ["x", "y"], "c": [5, 5]}


def test_doubled_keys_are_left_in_the_tree_for_the_reader_to_refuse() -> None:
    tree = read_yaml(b"a: 1\na: 2\n")
    assert isinstance(tree, Members)
    assert [key for key, _ in tree.pairs] == [Scalar(1, "a"), Scalar(2, "a")]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: [1\nb: 2", 2, "no YAML: "),
        ("a: 1\n\tb: 2", 2, "no YAML: "),
        ("a: 1\n b: 2", 2, "no YAML: "),
        ("a: 'x", 1, "no YAML: "),
        ("a: 1\nb: *nothing", 2, "unknown alias `nothing`"),
        ("a: &a [*a]", 1, "unknown alias `a`"),
        ("a: &a {b: *a}", 1, "unknown alias `a`"),
        ("a: 1\n---\nb: 1", 2, "a second document in the file"),
        ("a: !!python/object/apply:os.system [ls]", 1, "a tag (`tag:yaml.org,2002:python/object/apply:os.system`)"),
        ("a: !!str 5", 1, "a tag (`tag:yaml.org,2002:str`)"),
        ("a: ! 5", 1, "a tag (`!`)"),
        ("a: !secret 5", 1, "a tag (`!secret`)"),
        ("a: 1\nb: 9223372036854775808", 2, "number `9223372036854775808` is out of range"),
        ("a: 1e400", 1, "number `1e400` is out of range"),
        ("a: " + "9" * 5000, 1, "a number of too many digits"),
        ("a: 1\nb: \x00", 2, "no YAML: a control character"),
        ("a: 1\nb: \x1b[31m", 2, "no YAML: a control character"),
    ],
)
def test_what_is_not_of_the_subset_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    found = refusal(text)
    assert found[0] == line
    assert found[1].startswith(reason)


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"\xff", 1), (b"a: 1\nb: \xc3\x28\n", 2), ("a: 1\n\nb: ä".encode("latin-1"), 3), ("a: 1".encode("utf-16"), 1)],
)
def test_a_file_that_is_not_utf_8_is_refused_with_its_line(content: bytes, line: int) -> None:
    assert refusal(content) == (line, "the file is not UTF-8")


def test_nesting_is_bounded_exactly() -> None:
    assert read_yaml(("[" * MAX_DEPTH + "]" * MAX_DEPTH).encode()) is not None
    assert refusal("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)) == (1, "nested deeper than 32")


@pytest.mark.parametrize("text", ["[" * 500_000, "{a: " * 200_000, "- " * 400_000, "a:\n" + " - \n" * 5])
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    if text.startswith("a:"):
        assert read_yaml(text.encode()) is not None
        return
    assert refusal(text) == (1, "nested deeper than 32")


def test_a_bomb_of_aliases_is_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    line, reason = refusal("\n".join(levels))
    assert line in range(4, 7)
    assert reason == "more than 100000 values, those of aliases counted each time"


def test_a_ladder_of_aliases_cannot_nest_deeper_than_brackets() -> None:
    levels = ["a0: &a0 [x]"] + [f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 40)]
    line, reason = refusal("\n".join(levels))
    assert (line, reason) == (32, "nested deeper than 32")
