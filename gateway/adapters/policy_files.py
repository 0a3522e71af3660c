"""Policies in a directory of YAML files: read and compiled.

Owns which files count, how large they may be, and the version. Refuses to own what stands in them (the core's matter) and when they
are read again (`policy_directory`).
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.adapters.yaml_documents import read_yaml
from gateway.core.conditions import ConditionCompiler
from gateway.core.documents import DocumentError, DocumentFile, Finding
from gateway.core.policy import CompiledPolicy, PolicyRefusedError, compile_policy

SUFFIX: Final = ".yaml"
TESTS_DIRECTORY: Final = "tests"
_OTHER_SUFFIXES: Final = (".yml", ".YAML", ".YML")
MAX_FILE_BYTES: Final = 1_048_576
MAX_FILES: Final = 1_000
VERSION_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class PolicyContent:
    """The files of a directory as read: names and bytes, in file-name order."""

    files: tuple[tuple[str, bytes], ...]

    @property
    def version(self) -> str:
        """Give the first 12 digits of the SHA-256 over the files, as `cat *.yaml | sha256sum` tells it too."""
        digest = hashlib.sha256()
        for _, content in self.files:
            digest.update(content)
        return digest.hexdigest()[:VERSION_DIGITS]


def read_directory(directory: Path) -> PolicyContent:
    """Read the `*.yaml` files directly in a directory.

    Raises:
        PolicyRefusedError: It cannot be read, holds no such file, or one is too large.
    """
    try:
        names = sorted(entry.name for entry in directory.iterdir() if is_policy_name(entry.name))
        files = [(name, _read_file(directory / name)) for name in names if _is_regular(directory / name)]
    except OSError as error:
        raise refused(str(directory), f"cannot be read: {error.strerror or error}") from error
    if not files:
        raise refused(str(directory), f"no *{SUFFIX} file in the directory")
    if len(files) > MAX_FILES:
        raise refused(str(directory), f"more than {MAX_FILES} files")
    return PolicyContent(tuple(files))


def is_policy_name(name: str) -> bool:
    """Tell whether a file of this name counts: the shell's `*.yaml`, which leaves hidden files (those of editors) out."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def overlooked_files(directory: Path) -> list[Finding]:
    """Find files that someone may take for a part of the policy, and that are none by their name."""
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return []
    reason = f"not read; name it *{SUFFIX}"
    return [Finding(name, 1, reason) for name in names if name.endswith(_OTHER_SUFFIXES)]


def policy_schema() -> str:
    """Give the JSON Schema of policy files, for editors."""
    return (Path(__file__).parent / "policy.schema.json").read_text("utf-8")


def refused(file: str, reason: str, line: int = 0) -> PolicyRefusedError:
    """Make the error for one finding."""
    return PolicyRefusedError((Finding(file, line, reason),))


def _is_regular(path: Path) -> bool:
    """Tell whether a name leads to a regular file; anything else might never end, and is none of ours."""
    return stat.S_ISREG(path.stat().st_mode)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise refused(path.name, f"the file is larger than {MAX_FILE_BYTES} bytes", 1)
    if not content:
        # A full disk and a writer that has only just begun leave such files; read as a policy, one would deny everything.
        raise refused(path.name, "the file is empty", 1)
    return content


def parse_content(content: PolicyContent) -> list[DocumentFile]:
    """Parse the YAML of all files.

    Raises:
        PolicyRefusedError: Any of them is not of the subset that is read; one finding for each.
    """
    documents, findings = [], []
    for name, text in content.files:
        try:
            documents.append(DocumentFile(name, read_yaml(text)))
        except DocumentError as error:
            findings.append(Finding(name, error.line, error.reason))
    if findings:
        raise PolicyRefusedError(tuple(findings))
    return documents


def compile_content(content: PolicyContent, conditions: ConditionCompiler) -> CompiledPolicy:
    """Compile what was read.

    Raises:
        PolicyRefusedError: Anything is wrong with any file.
    """
    return compile_policy(parse_content(content), conditions, content.version)


def load_policy(directory: Path, conditions: ConditionCompiler) -> CompiledPolicy:
    """Read and compile a directory.

    Raises:
        PolicyRefusedError: Anything is wrong with it.
    """
    return compile_content(read_directory(directory), conditions)
