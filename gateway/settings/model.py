"""The settings themselves: one frozen value, every member with its default, bounds and documentation.

Owns names, bounds, defaults and the rules between members. Refuses to own where values come from: see `loading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.settings import values
from gateway.settings.data_dir import DATABASE_NAME

MASK = "**********"

_YEARS_10_S = 315_360_000
_GIB_16 = 17_179_869_184
_ISSUER_NAME = r"^[A-Za-z0-9_.-]{1,32}$"
_SIGNATURES = Literal["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]


def shipped_policy_dir() -> Path:
    """Give the directory of the policies that the package ships; in a checkout that of the repository."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "shipped" / "policies"
    return shipped if shipped.is_dir() else package.parent / "policies"


def _default_policy_dir() -> Path:
    here = Path("policies").absolute()
    return here if any(here.glob("*.yaml")) else shipped_policy_dir()


def _default_database_url(before: dict[str, object]) -> str:
    return f"sqlite+aiosqlite:///{before['data_dir']}/{DATABASE_NAME}"


def _default_audience(before: dict[str, object]) -> str:
    return str(before["public_url"])


def _default_docs(before: dict[str, object]) -> bool:
    return before["environment"] == "development"


def _default(text: str) -> dict[str, JsonValue]:
    """Describe a default that depends on other settings, for the documentation."""
    return {"default_text": text}


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True, allow_inf_nan=False
    )


class Issuer(_Frozen):
    """An issuer whose tokens are trusted, from `[[issuers]]` of the TOML file."""

    name: str = Field(pattern=_ISSUER_NAME, description="stands before each of its subjects: `name|sub`")
    issuer: values.PublicUrl = Field(description="the `iss` of its tokens")
    audience: str = Field(min_length=1, description="the `aud` that its tokens must have")
    algorithms: tuple[_SIGNATURES, ...] = Field(min_length=1, description="the signatures that count")
    tenants: tuple[str, ...] = Field(min_length=1, description='the tenants that it may assert; `["*"]` for any')
    types: tuple[str, ...] = Field(default=("at+jwt",), min_length=1, description="the `typ` headers that count")
    jwks_url: str | None = Field(default=None, description="where its keys are; found by discovery otherwise")
    subject_claim: str = Field(default="sub", min_length=1, description="the claim with the subject")
    tenant_claim: str | None = Field(
        default=None, description="the claim with the tenant; else the sole entry of `tenants`"
    )
    roles_claim: str | None = Field(
        default=None, description="the claim with the roles: just that name, else a dotted path"
    )
    roles_map: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="from value to role or roles")

    @field_validator("roles_map", mode="before")
    @classmethod
    def _one_role_or_several(cls, table: object) -> object:
        if not isinstance(table, dict):
            return table
        return {value: (roles,) if isinstance(roles, str) else roles for value, roles in table.items()}

    @model_validator(mode="after")
    def _a_tenant_for_each_token(self) -> Self:
        if self.tenant_claim is None and (len(self.tenants) != 1 or self.tenants == ("*",)):
            raise ValueError("names no `tenant_claim`, so `tenants` must have exactly one entry, and not `*`")
        return self


class Settings(_Frozen):
    """Everything that an operator may choose."""

    environment: Annotated[Literal["production", "development"], values.Word] = Field(
        default="production",
        description="`development` (as `gateway serve --dev`) makes a secret and demo users of its own, takes loopback"
        " origins and shows the try page and the API docs; `production` refuses all that is unsafe.",
    )
    secret_key: SecretStr = Field(
        description="Seals the keys in the database. At least 32 random bytes; all nodes share it.",
        json_schema_extra=_default("none; made in the data directory in development"),
    )
    secret_key_previous: SecretStr | None = Field(
        default=None,
        description="The secret before the present one, while a rotation lasts: it opens what it sealed, and seals nothing.",
    )
    data_dir: values.AbsolutePath = Field(
        default=Path(".gateway"),
        description="Where the embedded database and what development mode makes are kept; its owner's alone (mode 0700).",
        json_schema_extra=_default("`.gateway`"),
    )
    database_url: values.DatabaseUrl = Field(
        default_factory=_default_database_url,
        description="`sqlite+aiosqlite:///PATH`, or `postgresql+asyncpg://USER:PASSWORD@HOST/NAME` (not in this release).",
        json_schema_extra=_default(f"`{DATABASE_NAME}` in the data directory"),
    )
    broker_url: values.BrokerUrl = Field(
        default="memory://",
        description="What carries messages between nodes: `memory://` within one process, or `redis://…` or `rediss://…`"
        " (not in this release).",
    )
    policy_dir: values.AbsolutePath = Field(
        default_factory=_default_policy_dir,
        description="The directory whose `*.yaml` files are the policy.",
        json_schema_extra=_default("`policies` where it holds `*.yaml`, else the policies that the package ships"),
    )
    public_url: values.PublicUrl = Field(
        default="http://127.0.0.1:8000",
        description="The address that clients use, and the issuer (`iss`) of the tokens. A slash at its end is dropped.",
        json_schema_extra=_default("`http://` and the address served"),
    )
    audience: str = Field(
        default_factory=_default_audience,
        min_length=1,
        description="The audience (`aud`) of the tokens.",
        json_schema_extra=_default("the public URL"),
    )
    allowed_origins: values.Origins = Field(
        default=(),
        description="The origins that browsers may connect from, beside the gateway's own; `*` for any, in development only."
        " Development adds every loopback origin.",
    )
    access_token_ttl_s: values.Whole = Field(
        default=900, ge=1, le=_YEARS_10_S, description="The life of an access token, in seconds."
    )
    refresh_token_ttl_s: values.Whole = Field(
        default=1_209_600,
        ge=1,
        le=_YEARS_10_S,
        description="The life of a family of refresh tokens, in seconds from the login.",
    )
    query_token: values.OnOff = Field(default=True, description="Whether `?token=` is taken at `/ws`.")
    password_grant: values.OnOff = Field(
        default=True, description="Whether `/token` takes passwords; without, `unsupported_grant_type`."
    )
    max_connections: values.Whole = Field(
        default=10_000, ge=1, le=10_000_000, description="The most connections of this node."
    )
    max_connections_per_user: values.Whole = Field(
        default=100, ge=1, le=10_000_000, description="The most connections of one user on this node."
    )
    max_connections_per_address: values.Whole = Field(
        default=1000,
        ge=1,
        le=10_000_000,
        description="The most connections from one address (IPv6: one /64) on this node.",
    )
    max_frame_bytes: values.Whole = Field(
        default=65_536,
        ge=256,
        le=16_777_216,
        description="The largest message taken from a client, in bytes after inflation, its signature counted.",
    )
    commands_per_s: values.Number = Field(
        default=50.0, ge=0.01, le=1_000_000, description="Commands a second of one connection; its burst is twice that."
    )
    heartbeat_s: values.Number = Field(
        default=25.0,
        ge=0.05,
        le=3600,
        description="Seconds between two pings to a client; 10 s of silence after one close.",
    )
    compression: values.OnOff = Field(
        default=False,
        description="Whether permessage-deflate (RFC 7692) is offered; it costs processor time for each message.",
    )
    send_buffer_bytes: values.Whole = Field(
        default=1_048_576, ge=1024, le=_GIB_16, description="Bytes that may wait for one client before it is cut off."
    )
    history_bytes: values.Whole = Field(
        default=268_435_456,
        ge=0,
        le=1024 * _GIB_16,
        description="Bytes of history on this node; beyond it the largest channel loses its oldest messages.",
    )
    max_channels: values.Whole = Field(default=128, ge=1, le=100_000, description="Subscriptions of one connection.")
    drain_s: values.Number = Field(
        default=10.0, ge=0, le=3600, description="Seconds over which a stopping node sends its clients away."
    )
    docs: values.OnOff = Field(
        default_factory=_default_docs,
        description="Whether `/docs`, `/openapi.json` and `/asyncapi.json` are served.",
        json_schema_extra=_default("`off`; `on` in development"),
    )
    handshakes_per_s: values.Number = Field(
        default=200.0,
        ge=0,
        le=1_000_000,
        description="Handshakes a second from one address, its burst ten times that; 0 for no limit.",
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        description="The bearer token for `/metrics`. Without one it is open, but never through a trusted proxy.",
    )
    trusted_proxies: values.Networks = Field(
        default=(), description="Networks of the proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` count."
    )
    log_level: Annotated[Literal["info", "debug", "warning", "error"], values.Word] = Field(
        default="info", description="The least level that is logged."
    )
    issuers: tuple[Issuer, ...] = Field(
        default=(),
        description="Other issuers whose tokens are trusted; `[[issuers]]` tables, in the TOML file only (not in this"
        " release).",
    )

    @property
    def development(self) -> bool:
        """Whether this is development mode, in which every loopback origin is taken too."""
        return self.environment == "development"

    @field_validator("secret_key")
    @classmethod
    def _strong_in_production(cls, secret: SecretStr, info: ValidationInfo) -> SecretStr:
        weakness = secret_weakness(secret, info)
        if weakness:
            raise ValueError(f"{weakness}; give at least 32 random bytes, as from `openssl rand -base64 48`")
        return secret

    @field_validator("allowed_origins")
    @classmethod
    def _no_wildcard_in_production(cls, origins: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "*" in origins and info.data.get("environment") == "production":
            raise ValueError("`*` lets any page connect, which production refuses; name the origins")
        return origins

    @field_validator("metrics_token")
    @classmethod
    def _bearer_form(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            values.bearer_token(token.get_secret_value())
        return token

    @model_validator(mode="after")
    def _issuers_are_distinct(self) -> Self:
        for member in ("name", "issuer"):
            given = [getattr(issuer, member) for issuer in self.issuers]
            twice = {value for value in given if given.count(value) > 1}
            if twice:
                raise ValueError(f"two issuers have the {member} `{min(twice)}`")
        if not self.development:
            for issuer in self.issuers:
                if issuer.jwks_url is not None and not issuer.jwks_url.startswith("https://"):
                    raise ValueError(f"the `jwks_url` of issuer `{issuer.name}` is not https, which production refuses")
        return self

    def shown(self, name: str) -> object:
        """Give a setting as people may see it: secrets masked, in JSON's model."""
        value = getattr(self, name)
        match value:
            case SecretStr():
                return MASK
            case Path():
                return str(value)
            case str():
                return values.without_password(value) if name.endswith("_url") else value
            case tuple():
                return [item.model_dump(mode="json") if isinstance(item, Issuer) else str(item) for item in value]
            case _:
                return value

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        return [(name, self.shown(name)) for name in type(self).model_fields]


def secret_weakness(secret: SecretStr, info: ValidationInfo) -> str:
    """Tell what production would refuse in a secret; nothing in development, where only an empty one is refused."""
    text = secret.get_secret_value()
    if info.data.get("environment") == "production":
        return values.secret_weakness(text)
    return "" if text else "is empty"


def not_in_this_release(settings: Settings) -> tuple[str, ...]:
    """Name what the settings ask for, and rightly so, but no adapter of this release can do yet."""
    missing = []
    if settings.database_url.startswith("postgresql"):
        missing.append(
            "`GATEWAY_DATABASE_URL` names PostgreSQL, for which this release has no adapter yet; use `sqlite+aiosqlite:///PATH`"
        )
    if not settings.broker_url.startswith("memory:"):
        missing.append(
            "`GATEWAY_BROKER_URL` names Redis, for which this release has no adapter yet; use `memory://` with one worker"
        )
    if settings.issuers:
        missing.append("`issuers` names trusted issuers, which this release does not support yet; remove the tables")
    return tuple(missing)
