"""Settings: everything that section of the documentation promises, and every way past a refusal that came to mind."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.settings import (
    Origin,
    Settings,
    SettingsError,
    is_development_folder,
    load_settings,
    not_in_this_release,
    read_settings,
    shipped_policy_dir,
)
from gateway.settings.data_dir import remember_address, remembered_address
from gateway.settings.loading import bounds, is_secret, variable

SECRET = "k9QvX2mT7bLr4WzN8pYc3HsJ6dGf5AeU"
DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def production(**environ: str) -> Mapping[str, str]:
    return {"GATEWAY_SECRET_KEY": SECRET, **{f"GATEWAY_{name}": value for name, value in environ.items()}}


def findings(environ: Mapping[str, str], **arguments: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, **arguments)  # type: ignore[arg-type]
    return str(caught.value).splitlines()


# ---------------------------------------------------------------------------------------------- defaults and sources


def test_production_is_the_default_and_needs_nothing_but_a_secret(tmp_path: Path) -> None:
    settings = load_settings(production())
    assert settings.environment == "production"
    assert settings.secret_key.get_secret_value() == SECRET
    assert settings.database_url == f"sqlite+aiosqlite:///{tmp_path}/.gateway/gateway.db"
    assert settings.public_url == "http://127.0.0.1:8000"
    assert settings.audience == settings.public_url
    assert settings.access_token_ttl_s == 900
    assert settings.docs is False
    assert settings.policy_dir == shipped_policy_dir()
    assert not_in_this_release(settings) == ()


def test_environment_wins_over_the_toml_file(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("drain_s = 3\nmax_channels = 7\ncompression = true\nallowed_origins = ['https://a.example']\n")
    reading = read_settings(production(CONFIG=str(config), DRAIN_S="4.5"))
    assert reading.settings.drain_s == 4.5
    assert reading.settings.max_channels == 7
    assert reading.settings.compression is True
    assert reading.settings.allowed_origins == ("https://a.example",)
    assert reading.origins["drain_s"] is Origin.ENVIRONMENT
    assert reading.origins["max_channels"] is Origin.TOML
    assert reading.origins["heartbeat_s"] is Origin.DEFAULT
    assert set(reading.origins) == set(Settings.model_fields)


def test_file_variant_reads_the_value_without_its_last_newline(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\r\n")
    reading = read_settings({"GATEWAY_SECRET_KEY_FILE": str(file)})
    assert reading.settings.secret_key.get_secret_value() == SECRET
    assert reading.origins["secret_key"] is Origin.FILE


def test_file_variant_works_in_toml_and_for_any_setting(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "level").write_text("DEBUG\n")
    config = tmp_path / "gateway.toml"
    config.write_text(f"secret_key_file = '{tmp_path}/secret'\n")
    settings = load_settings({"GATEWAY_CONFIG": str(config), "GATEWAY_LOG_LEVEL_FILE": str(tmp_path / "level")})
    assert settings.secret_key.get_secret_value() == SECRET
    assert settings.log_level == "debug"


def test_value_and_file_variant_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "level").write_text("debug")
    assert findings(production(LOG_LEVEL="info", LOG_LEVEL_FILE=str(tmp_path / "level"))) == [
        "GATEWAY_LOG_LEVEL: is set, and so is GATEWAY_LOG_LEVEL_FILE; drop one of them"
    ]


@pytest.mark.parametrize("place", ["environment", "toml"])
def test_secret_that_was_given_in_a_way_that_cannot_be_used_is_not_said_to_be_missing_too(
    tmp_path: Path, place: str
) -> None:
    both = {"secret_key": SECRET, "secret_key_file": str(tmp_path / "secret")}
    unreadable = {"secret_key_file": str(tmp_path / "absent")}
    (tmp_path / "secret").write_text(SECRET)
    for given, problem in ((both, "drop one of them"), (unreadable, "cannot be read")):
        if place == "environment":
            environ = {f"GATEWAY_{name.upper()}": value for name, value in given.items()}
        else:
            config = tmp_path / "gateway.toml"
            config.write_text("\n".join(f'{name} = "{value}"' for name, value in given.items()))
            environ = {"GATEWAY_CONFIG": str(config)}
        (line,) = findings(environ)
        assert problem in line
        assert "is not set" not in line


def test_variable_set_to_nothing_counts_as_unset() -> None:
    assert load_settings(production(DRAIN_S="", ALLOWED_ORIGINS="", METRICS_TOKEN="")).drain_s == 10


def test_unreadable_file_variant_does_not_repeat_what_may_be_the_secret() -> None:
    (line,) = findings({"GATEWAY_SECRET_KEY": SECRET, "GATEWAY_METRICS_TOKEN_FILE": "hunter2-the-token-itself"})
    assert line.startswith("GATEWAY_METRICS_TOKEN_FILE: names a file that cannot be read")
    assert "hunter2" not in line


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 1_048_577])
def test_file_variant_that_is_no_short_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "value").write_bytes(content)
    (line,) = findings(production(METRICS_TOKEN_FILE=str(tmp_path / "value")))
    assert "no UTF-8 text of at most 1 MiB" in line


def test_lists_are_comma_separated_and_proxies_are_networks() -> None:
    settings = load_settings(
        production(
            ALLOWED_ORIGINS=" https://App.Example:443 , http://localhost:5173,,", TRUSTED_PROXIES="10.0.0.0/8,fd00::1"
        )
    )
    assert settings.allowed_origins == ("https://app.example", "http://localhost:5173")
    assert settings.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::1/128"))


@pytest.mark.parametrize(("given", "taken"), [("on", True), ("off", False), (" ON ", True)])
def test_switches_are_on_or_off(given: str, taken: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert load_settings(production(QUERY_TOKEN=given)).query_token is taken


# ---------------------------------------------------------------------------------------------- refusals


def test_every_finding_is_told_at_once_each_on_one_line() -> None:
    lines = findings({"GATEWAY_MAX_CHANNELS": "0", "GATEWAY_DRAIN": "4", "GATEWAY_QUERY_TOKEN": "no"})
    assert sorted(lines) == [
        "GATEWAY_DRAIN: is no setting; did you mean `GATEWAY_DRAIN_S`?",
        "GATEWAY_MAX_CHANNELS: `0` is no whole number from 1 to 100000; give one",
        "GATEWAY_QUERY_TOKEN: `no` is neither `on` nor `off`",
        (
            "GATEWAY_SECRET_KEY: is not set; give at least 32 random bytes, as from `openssl rand -base64 48`,"
            " or start with `gateway serve --dev`"
        ),
    ]


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        (SECRET[:31], "is shorter than 32 bytes"),
        ("abcdefghi" * 8, "has fewer than 10 distinct characters"),
        ("a" * 64, "has fewer than 10 distinct characters"),
        ("Please-CHANGE-ME-0123456789-abcdefghijkl", "is a placeholder from an example"),
        ("replace_me_with_the_output_of_openssl_rand", "is a placeholder from an example"),
    ],
)
def test_weak_secret_is_refused_in_production_and_not_repeated(tmp_path: Path, secret: str, problem: str) -> None:
    (line,) = findings({"GATEWAY_SECRET_KEY": secret})
    assert line.startswith(f"GATEWAY_SECRET_KEY: {problem}; give at least 32 random bytes")
    assert secret not in line
    (tmp_path / "secret").write_text(secret)
    (line,) = findings({"GATEWAY_SECRET_KEY_FILE": str(tmp_path / "secret")})
    assert problem in line
    assert load_settings({"GATEWAY_SECRET_KEY": secret}, development=True).secret_key.get_secret_value() == secret


def test_secrets_that_the_documentation_shows_are_refused() -> None:
    shown = [
        value
        for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]
        if page.is_file()
        for value in re.findall(r"GATEWAY_SECRET_KEY=['\"]?([^\s'\"$<]{32,})", page.read_text(encoding="utf-8"))
    ]
    for secret in shown:
        assert findings({"GATEWAY_SECRET_KEY": secret})


def test_a_weak_previous_secret_can_be_rotated_away() -> None:
    assert load_settings(production(SECRET_KEY_PREVIOUS="old")).secret_key_previous is not None


@pytest.mark.parametrize("origins", ["*", "https://a.example,*"])
def test_wildcard_origin_is_refused_in_production_only(origins: str) -> None:
    (line,) = findings(production(ALLOWED_ORIGINS=origins))
    assert line == ("GATEWAY_ALLOWED_ORIGINS: `*` lets any page connect, which production refuses; name the origins")
    assert "*" in load_settings({"GATEWAY_ALLOWED_ORIGINS": origins}, development=True).allowed_origins


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "example.com",
        "https://",
        "https://a.example/",
        "https://a b",
        "https://*.example",
        "//x",
        "https://ü.example",
    ],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    (line,) = findings(production(ALLOWED_ORIGINS=origin))
    assert "is no origin; give scheme, host and port without a path" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgres://u:hunter2@h/x"),
        ("DATABASE_URL", "u:hunter2@h"),
        ("DATABASE_URL", "sqlite:///x"),
        ("DATABASE_URL", "sqlite+aiosqlite:x"),
        ("BROKER_URL", "nats://u:hunter2@h"),
        ("BROKER_URL", "redis://"),
        ("PUBLIC_URL", "ftp://u:hunter2@h"),
        ("PUBLIC_URL", "https://u:hunter2@h"),
        ("PUBLIC_URL", "https://"),
        ("PUBLIC_URL", "https://h:99999"),
        ("PUBLIC_URL", "https://h?x"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy"),
        ("LOG_LEVEL", "loud"),
        ("ENVIRONMENT", "staging"),
        ("METRICS_TOKEN", "two words"),
        ("HEARTBEAT_S", "nan"),
        ("HEARTBEAT_S", "inf"),
        ("COMMANDS_PER_S", "0"),
        ("COMMANDS_PER_S", "-1"),
        ("MAX_FRAME_BYTES", "64k"),
        ("MAX_FRAME_BYTES", "1e400"),
        ("ACCESS_TOKEN_TTL_S", "0"),
        ("ACCESS_TOKEN_TTL_S", "1.5"),
        ("MAX_CONNECTIONS", "9" * 5000),
    ],
)
def test_value_out_of_its_form_is_refused_in_one_line_without_passwords(name: str, value: str) -> None:
    lines = findings(production(**{name: value}))
    assert len(lines) == 1
    assert lines[0].startswith(f"GATEWAY_{name}: ")
    assert "hunter2" not in lines[0]
    assert len(lines[0]) < 400


def test_every_number_has_bounds_that_hold() -> None:
    numbers = [name for name, field in Settings.model_fields.items() if field.annotation in {int, float}]
    assert len(numbers) >= 13
    for name in numbers:
        assert bounds(name), name
        _, least, _, most = bounds(name).split()
        for outside in (float(least) - 1, float(most) + 1):
            assert findings(production(**{name.upper(): f"{outside:.0f}"})), name


@pytest.mark.parametrize(
    "name", ["GATEWAY_SERVICE_HOST", "GATEWAY_PORT_8000_TCP_ADDR", "GATEWAY_PORT", "GATEWAY_REDIS_SERVICE_PORT_HTTP"]
)
def test_service_variables_of_kubernetes_are_told_apart(name: str) -> None:
    (line,) = findings({**production(), name: "tcp://10.0.0.1:8000"})
    assert "enableServiceLinks: false" in line


def test_unknown_variable_with_nothing_like_it_and_issuers_are_refused_with_a_way_on() -> None:
    assert findings(production(XYZZY_42="x"))[0].endswith("see `gateway config show` for all settings, and remove it")
    assert findings(production(ISSUERS="[]"))[0].endswith("is set in the TOML file only; name one in `GATEWAY_CONFIG`")
    assert findings(production(CONFIG_FILE="x"))[0].endswith("did you mean `GATEWAY_CONFIG`?")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("drain = 4", "`drain` in `{}`: is no setting; did you mean `drain_s`?"),
        ("GATEWAY_DRAIN_S = 4", "`GATEWAY_DRAIN_S` in `{}`: is no setting"),
        ("max_channels = true", "`max_channels` in `{}`: is a boolean where a number belongs; give a number"),
        ("max_channels = 'x'", "`max_channels` in `{}`: `x` is no whole number from 1 to 100000; give one"),
        ("allowed_origins = 4", "`allowed_origins` in `{}`: is no list; separate entries with commas"),
        ("log_level_file = 4", "`log_level_file` in `{}`: is no text; give the path of a file"),
        ("public_url = 4", "`public_url` in `{}`: is no text; put it in quotes"),
        ("audience = ''", "`audience` in `{}`: is empty; give a value or drop it"),
        ("drain_s = 4\ndrain_s_file = 'x'", "`drain_s` in `{}`: is set, and so is `drain_s_file` in `{}`; drop one"),
        ("drain_s =", "GATEWAY_CONFIG: `{}` is no TOML: invalid value (at end of document)"),
        ("\ud800", "GATEWAY_CONFIG: `{}` is no TOML: 'utf-8' codec can't decode"),
    ],
)
def test_toml_that_cannot_stand_is_refused_with_file_and_key(tmp_path: Path, text: str, problem: str) -> None:
    config = tmp_path / "gateway.toml"
    config.write_bytes(text.encode("utf-8", "surrogatepass"))
    (line,) = findings(production(CONFIG=str(config)))
    assert line.startswith(problem.format(config, config))


def test_missing_toml_file_is_refused() -> None:
    assert findings(production(CONFIG="nowhere.toml")) == [
        "GATEWAY_CONFIG: `nowhere.toml` cannot be read (No such file or directory); name a readable TOML file"
    ]


# ---------------------------------------------------------------------------------------------- issuers


ISSUER = """
[[issuers]]
name = "corp"
issuer = "https://id.example"
audience = "gateway"
algorithms = ["RS256"]
tenants = ["acme"]
"""


def with_issuers(tmp_path: Path, text: str) -> Mapping[str, str]:
    config = tmp_path / "gateway.toml"
    config.write_text(text)
    return production(CONFIG=str(config))


def test_issuer_is_read_with_its_defaults(tmp_path: Path) -> None:
    text = f'{ISSUER}\n[issuers.roles_map]\nstaff = "member"\nboss = ["admin", "member"]\n'
    settings = load_settings(with_issuers(tmp_path, text))
    (issuer,) = settings.issuers
    assert issuer.types == ("at+jwt",)
    assert issuer.subject_claim == "sub"
    assert issuer.roles_map == {"staff": ("member",), "boss": ("admin", "member")}
    assert "does not support yet" in not_in_this_release(settings)[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ISSUER.replace('name = "corp"', ""), "`issuers[0].name` in `{}`: is missing; every issuer needs it"),
        (ISSUER.replace('"RS256"', '"none"'), "`issuers[0].algorithms[0]` in `{}`: input should be"),
        (ISSUER.replace('"RS256"', '"HS256"'), "`issuers[0].algorithms[0]` in `{}`: input should be"),
        (ISSUER.replace('["acme"]', "[]"), "`issuers[0].tenants` in `{}`"),
        (ISSUER.replace('["acme"]', '["*"]'), "`issuers[0]` in `{}`: names no `tenant_claim`"),
        (ISSUER.replace('["acme"]', '["a", "b"]'), "`issuers[0]` in `{}`: names no `tenant_claim`"),
        (ISSUER.replace('"corp"', '"a|b"'), "`issuers[0].name` in `{}`: string should match"),
        (ISSUER + "tennant_claim = 'x'", "`issuers[0].tennant_claim` in `{}`: is no member of an issuer; did you mean"),
        (ISSUER + "jwks_url = 'http://id.example'", "`issuers` in `{}`: the `jwks_url` of issuer `corp` is not https"),
        (ISSUER + ISSUER, "`issuers` in `{}`: two issuers have the name `corp`"),
        ("issuers = 4", "`issuers` in `{}`: input should be a valid tuple"),
    ],
)
def test_issuer_that_cannot_stand_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (line,) = findings(with_issuers(tmp_path, text))
    assert line.startswith(problem.format(tmp_path / "gateway.toml"))


def test_development_takes_an_issuers_keys_over_http(tmp_path: Path) -> None:
    environ = dict(with_issuers(tmp_path, ISSUER + "jwks_url = 'http://127.0.0.1:9/keys'"))
    assert load_settings(environ, development=True).issuers[0].jwks_url == "http://127.0.0.1:9/keys"


def test_what_this_release_cannot_do_is_recognised_and_named() -> None:
    settings = load_settings(production(DATABASE_URL="postgresql+asyncpg://u:p@h/x", BROKER_URL="rediss://h"))
    missing = not_in_this_release(settings)
    assert [line.split(",")[0] for line in missing] == [
        "`GATEWAY_DATABASE_URL` names PostgreSQL",
        "`GATEWAY_BROKER_URL` names Redis",
    ]


# ---------------------------------------------------------------------------------------------- secrets and paths


def test_no_representation_shows_a_secret() -> None:
    settings = load_settings(
        production(
            SECRET_KEY_PREVIOUS="the-old-one",
            METRICS_TOKEN="the-metrics-token",
            DATABASE_URL="postgresql+asyncpg://user:hunter2@db/x?password=hunter3",
            BROKER_URL="redis://:hunter4@cache",
        )
    )
    for text in (repr(settings), str(settings), *(str(settings.shown(name)) for name in Settings.model_fields)):
        for secret in (SECRET, "the-old-one", "the-metrics-token", "hunter2", "hunter3", "hunter4"):
            assert secret not in text
    assert settings.shown("database_url") == "postgresql+asyncpg://user:**********@db/x?password=**********"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(production()).drain_s = 1  # type: ignore[misc]


def test_development_makes_a_private_directory_and_one_secret_that_stays(tmp_path: Path) -> None:
    first = load_settings({}, development=True)
    assert stat.S_IMODE((tmp_path / ".gateway").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".gateway" / "secret-key").stat().st_mode) == 0o600
    assert len(first.secret_key.get_secret_value()) >= 48
    assert load_settings({"GATEWAY_ENVIRONMENT": "development"}).secret_key == first.secret_key
    assert first.docs is True
    assert first.development is True
    assert sorted(path.name for path in (tmp_path / ".gateway").iterdir()) == ["secret-key"]


def test_looser_modes_are_mended(tmp_path: Path) -> None:
    secret = load_settings({}, development=True).secret_key
    (tmp_path / ".gateway").chmod(0o755)
    (tmp_path / ".gateway" / "secret-key").chmod(0o644)
    assert load_settings({}, development=True).secret_key == secret
    assert stat.S_IMODE((tmp_path / ".gateway").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".gateway" / "secret-key").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_data_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".gateway").mkdir()
    os.chown(tmp_path / ".gateway", 65534, 65534)
    for environ, development in ((production(), False), ({}, True)):
        (line,) = findings(environ, development=development)
        assert line.startswith(f"GATEWAY_DATA_DIR: `{tmp_path}/.gateway` belongs to another user; name a directory")


def test_open_directory_with_other_things_in_it_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "lib"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    (shared / "somebody-elses").write_text("")
    (line,) = findings(production(DATA_DIR=str(shared)))
    assert "is open to others and holds other things; name a new directory, or set its mode to 0700" in line
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    shared.chmod(0o700)
    load_settings(production(DATA_DIR=str(shared)))


def test_empty_open_directory_is_taken_and_closed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o777)
    load_settings(production(DATA_DIR=str(tmp_path / "data")))
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (line,) = findings(production(DATA_DIR=str(tmp_path / "file" / "x")))
    assert line.startswith("GATEWAY_DATA_DIR: ")


def test_production_with_a_database_elsewhere_makes_no_directory(tmp_path: Path) -> None:
    load_settings(production(DATABASE_URL="postgresql+asyncpg://u:p@h/x"))
    load_settings(production(), write=False)
    load_settings({}, development=True, write=False)
    assert list(tmp_path.iterdir()) == []


def test_development_flag_against_a_stated_production_is_refused() -> None:
    (line,) = findings(production(ENVIRONMENT="production"), development=True)
    assert line == "GATEWAY_ENVIRONMENT: says `production` and `--dev` says development; drop one of them"


def test_policies_beside_the_operator_come_before_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    assert load_settings(production()).policy_dir == shipped_policy_dir()
    (tmp_path / "policies" / "a.yaml").write_text("version: 1\n")
    assert load_settings(production()).policy_dir == tmp_path / "policies"
    assert any(shipped_policy_dir().parent.iterdir())


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (("127.0.0.1", 9000), "http://127.0.0.1:9000"),
        (("0.0.0.0", 80), "http://127.0.0.1:80"),  # noqa: S104 - nothing is bound
        (("::", 8000), "http://[::1]:8000"),
        (("::1", 8000), "http://[::1]:8000"),
        (("gw.internal", 8000), "http://gw.internal:8000"),
    ],
)
def test_public_url_is_the_address_served_unless_set(address: tuple[str, int], url: str) -> None:
    assert load_settings(production(), address=address).public_url == url
    stated = load_settings(production(PUBLIC_URL="https://gw.example/"), address=address)
    assert (stated.public_url, stated.audience) == ("https://gw.example", "https://gw.example")


def test_commands_in_a_development_folder_find_its_secret_and_its_address(tmp_path: Path) -> None:
    assert not is_development_folder({})
    load_settings({}, development=True)
    assert is_development_folder({})
    assert not is_development_folder({"GATEWAY_SECRET_KEY": SECRET})
    assert not is_development_folder({"GATEWAY_ENVIRONMENT": "production"})
    assert not is_development_folder({"GATEWAY_DATA_DIR": str(tmp_path / "elsewhere")})
    remember_address(tmp_path / ".gateway", "http://127.0.0.1:9000")
    assert load_settings({}, development=True).public_url == "http://127.0.0.1:9000"
    assert load_settings({}, development=True, address=("127.0.0.1", 8000)).public_url == "http://127.0.0.1:8000"
    assert load_settings(production()).public_url == "http://127.0.0.1:8000"
    (tmp_path / ".gateway").chmod(0o755)
    assert remembered_address(tmp_path / ".gateway") is None
    assert remembered_address(tmp_path / "nowhere") is None


# ---------------------------------------------------------------------------------------------- documentation


def documented(name: str) -> str:
    """Give the row of the documentation that the code asks for."""
    field = Settings.model_fields[name]
    extra = field.json_schema_extra
    if isinstance(extra, dict):
        default = str(extra["default_text"])
    else:
        value = field.default
        match value:
            case None | ():
                default = "none"
            case bool():
                default = "`on`" if value else "`off`"
            case float():
                default = f"`{value:g}`"
            case _:
                default = f"`{value}`"
    notes = [bounds(name)] if bounds(name) else []
    notes += ["secret"] if is_secret(name) else []
    label = "`[[issuers]]`" if name == "issuers" else f"`{variable(name)}`"
    return f"| {label} | {default} | {', '.join(notes)} | {field.description} |"


def test_documentation_has_the_row_of_every_setting() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8").splitlines()
    rows = [documented(name) for name in Settings.model_fields]
    assert [row for row in rows if row not in page] == []
    assert [line for line in page if line.startswith(("| `GATEWAY_", "| `[[issuers]]`")) and line not in rows] == []
