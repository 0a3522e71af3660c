"""From the environment and a TOML file to `Settings`, with every finding at once.

Owns names, precedence (environment, then TOML, then defaults), `_FILE` variants and the wording of findings. Refuses to own
the values' meaning: `model` checks them.
"""

from __future__ import annotations

import difflib
import enum
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotated_types import Ge, Le
from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from gateway.core.errors import GatewayError
from gateway.settings.data_dir import SECRET_NAME, claim_data_dir, development_secret, remembered_address
from gateway.settings.model import Issuer, Settings

PREFIX = "GATEWAY_"
CONFIG = "GATEWAY_CONFIG"
MAX_FILE_BYTES = 1_048_576
MAX_QUOTED_CHARACTERS = 60
TOML_ONLY = frozenset({"issuers"})

_KUBERNETES = re.compile(r"GATEWAY(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_KEYS = "give at least 32 random bytes, as from `openssl rand -base64 48`, or start with `gateway serve --dev`"


class Origin(enum.StrEnum):
    """Where the value of a setting came from."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    FILE = "file"
    TOML = "toml"
    GENERATED = "generated"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the settings.

    Args:
        setting: The variable or TOML key, as the operator wrote it.
        problem: What is wrong, and after a semicolon what to do; never a secret.
    """

    setting: str
    problem: str

    def __str__(self) -> str:
        return " ".join(f"{self.setting}: {self.problem}".splitlines())


class SettingsError(GatewayError):
    """Settings that the gateway does not start with; its text has one line for each finding."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings, and where each came from: `origins` has every name."""

    settings: Settings
    origins: Mapping[str, Origin]


@dataclass(frozen=True, slots=True)
class _Given:
    """A raw value, where it came from and how its operator calls it."""

    value: object
    origin: Origin
    label: str


def load_settings(
    environ: Mapping[str, str],
    *,
    development: bool = False,
    address: tuple[str, int] | None = None,
    write: bool = True,
) -> Settings:
    """Read and check all settings; see `read_settings`."""
    return read_settings(environ, development=development, address=address, write=write).settings


def read_settings(
    environ: Mapping[str, str],
    *,
    development: bool = False,
    address: tuple[str, int] | None = None,
    write: bool = True,
) -> Reading:
    """Read and check all settings, and tell where each came from.

    In development the data directory is made and a secret generated in it; in production the directory is made where the
    embedded database lives in it.

    Args:
        environ: The environment.
        development: Whether `--dev` asks for development mode.
        address: Host and port that are served, for the default of the public URL.
        write: Whether directory and secret may be made; without, a missing secret is made up for this one reading.

    Raises:
        SettingsError: With every finding.
    """
    findings: list[Finding] = []
    given = {**_from_toml(environ, findings), **_from_environment(environ, findings)}
    if development:
        stated = given.get("environment")
        if stated is not None and str(stated.value).strip().lower() == "production":
            findings.append(Finding(stated.label, "says `production` and `--dev` says development; drop one of them"))
        given["environment"] = _Given("development", Origin.ENVIRONMENT, "`--dev`")
    _fill_in(given, address, findings, write=write)
    try:
        settings = Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as wrong:
        findings.extend(one for one in _findings(wrong, given) if not _follows_from_given(one, findings))
        raise SettingsError(tuple(findings)) from None
    _claim(settings, given, findings, write=write)
    if findings:
        raise SettingsError(tuple(findings))
    names = Settings.model_fields
    return Reading(settings, {name: given[name].origin if name in given else Origin.DEFAULT for name in names})


def is_development_folder(environ: Mapping[str, str]) -> bool:
    """Tell whether a command without `--dev` acts on what `gateway serve --dev` has made here.

    So it is when neither environment nor secret is set and the data directory holds a generated secret. `serve` itself never
    asks: nothing but `--dev` or the setting makes a server a development one.
    """
    if any(environ.get(f"{PREFIX}{name}") for name in ("ENVIRONMENT", "SECRET_KEY", "SECRET_KEY_FILE")):
        return False
    given = {**_from_toml(environ, []), **_from_environment(environ, [])}
    if "environment" in given or "secret_key" in given:
        return False
    return (_data_dir(given) / SECRET_NAME).is_file()


def data_directory(environ: Mapping[str, str]) -> Path:
    """Give the data directory, without a look at any other setting."""
    return _data_dir({**_from_toml(environ, []), **_from_environment(environ, [])})


def variable(name: str) -> str:
    """Give the environment variable of a setting."""
    return PREFIX + name.upper()


# ------------------------------------------------------------------------------------------------ the sources


def _from_environment(environ: Mapping[str, str], findings: list[Finding]) -> dict[str, _Given]:
    ours = {name: value for name, value in environ.items() if name.startswith(PREFIX) and name != CONFIG}
    given = {}
    known = {variable(name): name for name in Settings.model_fields if name not in TOML_ONLY}
    unknown = [name for name in sorted(ours) if name not in known and name.removesuffix("_FILE") not in known]
    findings.extend(Finding(name, _unknown_variable(name, [*known, CONFIG])) for name in unknown)
    for label, name in known.items():
        # A variable that is set to nothing counts as unset: compose files and charts pass such on.
        one = _direct_or_file(
            ours.get(label) or None, ours.get(f"{label}_FILE") or None, label, f"{label}_FILE", findings
        )
        if one is not None:
            given[name] = _Given(one[0], Origin.FILE if one[1] else Origin.ENVIRONMENT, label + one[1])
    return given


def _from_toml(environ: Mapping[str, str], findings: list[Finding]) -> dict[str, _Given]:
    path = environ.get(CONFIG)
    if not path:
        return {}
    try:
        table = tomllib.loads(_read(Path(path)))
    except OSError as wrong:
        findings.append(Finding(CONFIG, f"`{path}` cannot be read ({wrong.strerror}); name a readable TOML file"))
        return {}
    except (ValueError, RecursionError) as wrong:  # not UTF-8, too large, or not TOML
        findings.append(Finding(CONFIG, f"`{path}` is no TOML: {_lower_first(str(wrong))}"))
        return {}
    return _from_table(table, path, findings)


def _from_table(table: dict[str, Any], path: str, findings: list[Finding]) -> dict[str, _Given]:
    names = list(Settings.model_fields)
    unknown = [key for key in table if key not in names and key.removesuffix("_file") not in names]
    findings.extend(Finding(f"`{key}` in `{path}`", "is no setting" + _did_you_mean(key, names)) for key in unknown)
    given = {}
    for name in names:
        file = table.get(f"{name}_file")
        if file is not None and not isinstance(file, str):
            findings.append(Finding(f"`{name}_file` in `{path}`", "is no text; give the path of a file"))
            continue
        label = f"`{name}` in `{path}`"
        one = _direct_or_file(table.get(name), file, label, f"`{name}_file` in `{path}`", findings)
        if one is not None:
            given[name] = _Given(one[0], Origin.FILE if one[1] else Origin.TOML, label)
    return given


def _direct_or_file(
    direct: object | None, file: str | None, label: str, file_label: str, findings: list[Finding]
) -> tuple[object, str] | None:
    """Give a value and the suffix of its label, from the setting itself or from the file that its `_FILE` names."""
    if direct is not None and file is not None:
        findings.append(Finding(label, f"is set, and so is {file_label}; drop one of them"))
        return None
    if file is None:
        return None if direct is None else (direct, "")
    try:
        return _read(Path(file)).removesuffix("\n").removesuffix("\r"), "_FILE"
    except OSError as wrong:  # the path is not repeated: the value itself may stand there by mistake, a secret
        findings.append(
            Finding(file_label, f"names a file that cannot be read ({wrong.strerror}); name a readable one")
        )
    except ValueError:
        findings.append(
            Finding(file_label, "names a file that is no UTF-8 text of at most 1 MiB; give one with the value")
        )
    return None


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("it is larger than 1 MiB")
    return content.decode()


def _unknown_variable(name: str, known: list[str]) -> str:
    if name.removeprefix(PREFIX).lower() in TOML_ONLY:
        return f"is set in the TOML file only; name one in `{CONFIG}`"
    if _KUBERNETES.fullmatch(name):
        return "is a service variable of Kubernetes, not a setting; set `enableServiceLinks: false` in the pod"
    return "is no setting" + _did_you_mean(name, known)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else "; see `gateway config show` for all settings, and remove it"


# ------------------------------------------------------------------------------------------------ what is not given


def _fill_in(
    given: dict[str, _Given], address: tuple[str, int] | None, findings: list[Finding], *, write: bool
) -> None:
    """Fill in what depends on the address served and on development mode."""
    environment = given.get("environment")
    development = environment is not None and str(environment.value).strip().lower() == "development"
    data_dir = _data_dir(given)
    if "public_url" not in given:
        url = _served_url(*address) if address else remembered_address(data_dir) if development else None
        if url:
            given["public_url"] = _Given(url, Origin.DEFAULT, variable("public_url"))
    if development and "secret_key" not in given:
        secret = _development_secret(data_dir, findings, write=write)
        given["secret_key"] = _Given(secret, Origin.GENERATED, variable("secret_key"))


def _development_secret(data_dir: Path, findings: list[Finding], *, write: bool) -> str:
    try:
        if write:
            claim_data_dir(data_dir)
        if write or (data_dir / SECRET_NAME).exists():
            return development_secret(data_dir)
    except OSError as wrong:
        findings.append(_data_dir_finding(data_dir, wrong))
    return secrets.token_urlsafe()


def _claim(settings: Settings, given: Mapping[str, _Given], findings: list[Finding], *, write: bool) -> None:
    """Make the data directory where production keeps its embedded database in it."""
    if not write or settings.development or "database_url" in given:
        return
    try:
        claim_data_dir(settings.data_dir)
    except OSError as wrong:
        findings.append(_data_dir_finding(settings.data_dir, wrong))


def _data_dir(given: Mapping[str, _Given]) -> Path:
    stated = given.get("data_dir")
    return Path(str(stated.value) if stated else ".gateway").expanduser().absolute()


def _data_dir_finding(data_dir: Path, wrong: OSError) -> Finding:
    reason = wrong.strerror or str(wrong)
    advice = "" if ";" in reason else "; name a directory that this user may write"
    return Finding(variable("data_dir"), f"`{data_dir}` {_lower_first(reason)}{advice}")


def _served_url(host: str, port: int) -> str:
    """Name the address served; one that means every interface is named by its loopback address."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host)  # noqa: S104 - recognised, not bound
    return f"http://{name or (f'[{host}]' if ':' in host else host)}:{port}"


# ------------------------------------------------------------------------------------------------ the wording


def _findings(wrong: ValidationError, given: Mapping[str, _Given]) -> list[Finding]:
    errors = wrong.errors(include_url=False)
    return [_finding(error, given) for error in errors if not _follows(error, errors)]


def _follows(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Tell an error that only follows from another: a default not computed, a list short of its refused entries."""
    length = len(error["loc"])
    return error["type"] == "default_factory_not_called" or (
        error["type"] == "too_short"
        and any(len(other["loc"]) > length and other["loc"][:length] == error["loc"] for other in errors)
    )


def _follows_from_given(missing: Finding, findings: list[Finding]) -> bool:
    """Tell that a setting only lacks a value because what was given for it could not be used."""
    name = missing.setting.removeprefix(PREFIX).lower()
    places = (f"{missing.setting}_FILE", f"`{name}` in ", f"`{name}_file` in ")
    told = any(one.setting == missing.setting or one.setting.startswith(places) for one in findings)
    return told and missing.problem.startswith("is not set")


def _finding(error: ErrorDetails, given: Mapping[str, _Given]) -> Finding:
    name = str(error["loc"][0]) if error["loc"] else "issuers"
    one = given.get(name)
    label = one.label if one else variable(name)
    if name == "issuers":
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"][1:])
        return Finding(label.replace("issuers", f"issuers{place}", 1), _issuer_problem(error))
    return Finding(label, _problem(name, error))


def _problem(name: str, error: ErrorDetails) -> str:
    match error["type"]:
        case "missing":
            return f"is not set; {_KEYS}"
        case "value_error":
            return str(error.get("ctx", {})["error"])
        case "literal_error":
            return f"`{_quoted(error['input'])}` is not one of {error.get('ctx', {})['expected'].replace(chr(39), '`')}"
        case "string_type" | "path_type":
            return "is no text; put it in quotes"
        case "string_too_short":
            return "is empty; give a value or drop it"
        case _:
            whole = "int" in error["type"] or Settings.model_fields[name].annotation is int
            return f"`{_quoted(error['input'])}` is no {'whole number' if whole else 'number'} {bounds(name)}; give one"


def _issuer_problem(error: ErrorDetails) -> str:
    match error["type"]:
        case "missing":
            return "is missing; every issuer needs it"
        case "extra_forbidden":
            return "is no member of an issuer" + _did_you_mean(str(error["loc"][-1]), list(Issuer.model_fields))
        case "value_error":
            return str(error.get("ctx", {})["error"])
        case _:
            return _lower_first(error["msg"])


def bounds(name: str) -> str:
    """Say between which bounds the number of a setting lies; the empty string for what is no number."""
    metadata = Settings.model_fields[name].metadata
    least = next((one.ge for one in metadata if isinstance(one, Ge)), None)
    most = next((one.le for one in metadata if isinstance(one, Le)), None)
    return "" if least is None or most is None else f"from {least} to {most}"


def _quoted(value: object) -> str:
    """Give what an operator wrote, on one line and no longer than a glance."""
    text = str(value)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[:MAX_QUOTED_CHARACTERS] + "…"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def is_secret(name: str) -> bool:
    """Tell whether a setting is a secret, which documentation marks and `config show` masks."""
    annotation = Settings.model_fields[name].annotation
    return annotation is SecretStr or annotation == SecretStr | None
