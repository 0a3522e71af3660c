"""`gateway token`: access tokens by hand, for scripts and for finding out what is wrong with one."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from gateway.adapters.identity import TokenServices
from gateway.cli import terminal
from gateway.cli.account_access import read_stdin, with_tokens
from gateway.cli.examples import examples
from gateway.cli.failure import FAILED, USAGE, CommandFailure
from gateway.core.errors import HandshakeRefusedError
from gateway.core.signing import decode_base64url, encode_base64url
from gateway.runtime.accounts import MAX_TTL_S, IssuedAccess, issue_for
from gateway.runtime.token_revocation import Revoked, revoke_jti, revoke_token

app = typer.Typer(help="Issue, inspect and revoke access tokens.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_PARTS = 3


@app.command(
    epilog=examples(
        "gateway token issue --subject alice", "gateway token issue --subject alice --role viewer --ttl-s 60 --json"
    )
)
def issue(
    *,
    subject: Annotated[str, typer.Option(metavar="NAME", help="An existing user or client.", show_default=False)],
    role: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE", help="Narrow to this role; may be repeated.")
    ] = None,
    ttl_s: Annotated[
        int | None,
        typer.Option("--ttl-s", min=1, max=MAX_TTL_S, metavar="SECONDS", help="Its life; by default the usual one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Issue an access token for an existing account, without its password."""

    async def work(services: TokenServices) -> IssuedAccess:
        return await issue_for(
            services.accounts,
            services.tokens,
            services.terms,
            subject,
            roles=role or (),
            ttl_s=ttl_s,
            now=time.time(),
        )

    issued = with_tokens(work)
    if not as_json:
        terminal.write_line(issued.access_token)
        return
    terminal.write_json(
        {
            "access_token": issued.access_token,
            "token_type": "bearer",
            "expires_in": issued.expires_in,
            "scope": issued.scope,
            "signing_key": encode_base64url(issued.signing_key),
        }
    )


@app.command(epilog=examples("gateway token issue --subject alice | gateway token inspect"))
def inspect(*, as_json: Json = False) -> None:
    """Read a token from standard input; tell what it says, and exit 1 where it would be refused."""
    token = read_stdin().strip()
    if not token:
        raise CommandFailure("give the token on standard input", exit_code=USAGE)

    async def work(services: TokenServices) -> tuple[str, str]:
        try:
            await services.credentials.verify_token(token, time.time())
        except HandshakeRefusedError as refused:
            return refused.refusal.value, refused.detail
        return "valid", ""

    state, detail = with_tokens(work)
    data: dict[str, object] = {"state": state}
    if detail:
        data["detail"] = detail
    data |= _unverified(token)
    if as_json:
        terminal.write_json(data)
    else:
        for name, value in data.items():
            text = value if isinstance(value, str) else terminal.to_json(value)
            terminal.write_line(terminal.printable(f"{name}: {text}"))
    if state != "valid":
        raise typer.Exit(FAILED)


@app.command(epilog=examples("gateway token revoke < token.txt", "gateway token revoke --jti 3q2-7wAAAAB0b2tlbgAAAA"))
def revoke(
    *,
    jti: Annotated[
        str | None,
        typer.Option("--jti", metavar="ID", help="The token's `jti`, instead of the token on standard input."),
    ] = None,
    as_json: Json = False,
) -> None:
    """End a token, read from standard input, before its time; its connections close within a second."""
    token = "" if jti is not None else read_stdin().strip()
    if jti is None and not token:
        raise CommandFailure("give the token on standard input, or its `--jti`", exit_code=USAGE)

    async def work(services: TokenServices) -> Revoked:
        if jti is not None:
            longest_ttl_s = await services.keys.longest_ttl_s()
            return await revoke_jti(services.revocations, services.terms.issuer, jti, longest_ttl_s, time.time())
        try:
            return await revoke_token(services.tokens, services.revocations, token, time.time())
        except HandshakeRefusedError as refused:
            raise CommandFailure(f"no key of this gateway has signed that token: {refused.detail}") from None

    revoked = with_tokens(work)
    if as_json:
        terminal.write_json(
            {"jti": revoked.jti, "issuer": revoked.issuer, "revoked": not revoked.expired, "expired": revoked.expired}
        )
        return
    terminal.write_line(terminal.printable(f"`{revoked.jti}` {_became(revoked)}"))


def _became(revoked: Revoked) -> str:
    if revoked.expired:
        return "has expired; there is nothing to revoke"
    return "was revoked before" if revoked.before else "is revoked; its connections close within a second"


def _unverified(token: str) -> dict[str, object]:
    """Read what the token says of itself, whether or not it is true: header and claims, as far as they can be read."""
    parts = token.split(".")
    if len(parts) != _PARTS:
        return {}
    said: dict[str, object] = {}
    for name, part in zip(("header", "claims"), parts[:2], strict=True):
        try:
            said[name] = msgspec.json.decode(decode_base64url(part) or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return said
