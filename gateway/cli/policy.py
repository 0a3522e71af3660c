"""`gateway policy`: check, test, explain and show the policy, with no server, secret or database at hand."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.adapters.cel import CelConditions
from gateway.adapters.policy_files import (
    TESTS_DIRECTORY,
    compile_content,
    overlooked_files,
    parse_content,
    policy_schema,
    read_directory,
)
from gateway.cli import terminal
from gateway.cli.examples import examples
from gateway.cli.failure import FAILED, USAGE, CommandFailure
from gateway.cli.policy_views import decision_lines, decision_record, policy_lines, policy_record
from gateway.core.accounts import Account
from gateway.core.commands import ActionRegistry
from gateway.core.documents import Finding, quoted
from gateway.core.errors import GatewayError
from gateway.core.policy import CompiledPolicy, PolicyRefusedError
from gateway.core.policy_lint import lint as lint_policy
from gateway.core.policy_questions import (
    Question,
    ask,
    read_policy_tests,
    run_policy_tests,
    unusable,
)
from gateway.core.principal import ConnectionFacts, Principal
from gateway.settings import shipped_policy_dir

app = typer.Typer(help="Check, test, explain and show the policy.", no_args_is_help=True)

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIRECTORY",
        envvar="GATEWAY_POLICY_DIR",
        help="The directory of the policy's `*.yaml` files; `./policies` if there, else those of the package.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog=examples("gateway policy lint", "gateway policy lint --dir deploy/policies --json"))
def lint(*, directory: Dir = None, as_json: Json = False) -> None:
    """Check every file; print each finding as file:line, and exit 1 if there is any. Prints the policy's version."""
    directory = _directory(directory)
    findings, policy = _findings(directory)
    version = None if policy is None else policy.version
    if as_json:
        terminal.write_json({"version": version, "findings": [_record(finding) for finding in findings]})
    else:
        _print_findings(directory, findings)
        if policy is not None:
            rules = sum(len(role.rules) for role in policy.text.roles.values())
            terminal.write_line(f"version {version}: {len(policy.roles)} roles, {rules} rules")
    if findings:
        raise CommandFailure(f"{_count(len(findings), 'finding')} in `{directory}`; see the lines above")


@app.command("test", epilog=examples("gateway policy test", "gateway policy test --dir deploy/policies"))
def run_tests(*, directory: Dir = None, as_json: Json = False) -> None:
    """Run the policy's own tests, `tests/*.yaml` in its directory; exit 1 if any does not hold."""
    directory = _directory(directory)
    policy = _load(directory)
    registry = ActionRegistry()
    tests_directory = directory / TESTS_DIRECTORY
    if not tests_directory.is_dir():
        raise CommandFailure(f"no tests; write some into `{tests_directory}`")
    try:
        files = parse_content(read_directory(tests_directory))
    except PolicyRefusedError as error:
        placed = "; ".join(_placed(tests_directory, finding) for finding in error.findings)
        raise CommandFailure(f"the policy tests cannot be read: {placed}") from None
    tests, findings = read_policy_tests(files, registry)
    findings += run_policy_tests(policy, tests, registry, time.time())
    if as_json:
        findings_data = [_record(finding) for finding in findings]
        terminal.write_json({"version": policy.version, "tests": len(tests), "findings": findings_data})
    else:
        _print_findings(tests_directory, findings)
        terminal.write_line(f"version {policy.version}: {_count(len(tests), 'test')}, {len(findings)} failed")
    if findings:
        raise CommandFailure(f"{_count(len(findings), 'test')} failed; see the lines above")


@app.command(
    epilog=examples(
        "gateway policy explain --role member --tenant acme --subject alice \\",
        "    --action channel.publish --channel room:acme:1",
        "gateway policy explain --subject alice --action channel.publish --channel room:acme:1",
        "gateway policy explain --role trader --claim desk=fx --signed --action orders.place --data '{\"amount\": 5}'",
    )
)
def explain(
    *,
    action: Annotated[str, typer.Option(metavar="ACTION", help="The action, such as channel.publish.")],
    channel: Annotated[str | None, typer.Option(metavar="CHANNEL", help="The channel, where the action has one.")] = (
        None
    ),
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="An assigned role; may be repeated.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="The principal's tenant.")] = None,
    subject: Annotated[
        str | None,
        typer.Option(metavar="SUBJECT", help="The principal; without --role the stored account of that name."),
    ] = None,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A claim of the token; may be repeated.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="JSON", help="The command's data.")] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Over a signed connection.")] = False,
    ip: Annotated[str, typer.Option(metavar="ADDRESS", help="The client's address.")] = "",
    origin: Annotated[str, typer.Option(metavar="ORIGIN", help="The browser's Origin.")] = "",
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """Tell whether a principal may do something, and which rule decides; exit 0 for allow, 1 for deny."""
    directory = _directory(directory)
    registry = ActionRegistry()
    question = Question(
        principal=_principal(subject, tenant, role, claim),
        action=action,
        channel=channel,
        data=_data(data),
        connection=ConnectionFacts(_address(ip), origin, signed),
    )
    reason = unusable(question, registry)
    if reason is not None:
        raise CommandFailure(f"{reason}; see `gateway policy explain --help`", USAGE)
    policy = _load(directory, exit_code=USAGE)
    for name in sorted(set(question.principal.roles) - policy.roles):
        terminal.note(terminal.printable(f"role {quoted(name)} is not in this policy, so it grants nothing"))
    decision = ask(policy, registry, question, time.time())
    rules = [rule.text for rule in policy.bind(question.principal).matching(action, channel)]
    if as_json:
        terminal.write_json(decision_record(policy, question, decision, rules))
    else:
        _print_lines(decision_lines(question, decision, rules))
    return 0 if decision.allowed else FAILED


@app.command(epilog=examples("gateway policy show", "gateway policy show --role member", "gateway policy show --json"))
def show(
    *,
    role: Annotated[str | None, typer.Option(metavar="ROLE", help="This role and those that it inherits.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of policy files instead.")] = False,
    directory: Dir = None,
    as_json: Json = False,
) -> None:
    """Print the merged policy: roles with their rules, channels and routes, each rule with its file:line."""
    if schema:
        terminal.write_line(policy_schema().rstrip())
        return
    policy = _load(_directory(directory))
    if role is not None and role not in policy.roles:
        raise CommandFailure(f"no role {quoted(role)}; the policy has {', '.join(sorted(policy.roles))}", USAGE)
    names = sorted(policy.roles) if role is None else policy.inherited((role,))
    roles = [policy.text.roles[name] for name in names]
    if as_json:
        terminal.write_json(policy_record(policy, roles))
    else:
        _print_lines(policy_lines(policy, roles))


def _directory(given: Path | None) -> Path:
    if given is not None:
        if not given.is_dir():
            raise CommandFailure(f"`{given}` is no directory; give the one of the policy's *.yaml files", USAGE)
        return given
    here = Path("policies")
    return here if any(here.glob("*.yaml")) else shipped_policy_dir()


def _findings(directory: Path) -> tuple[list[Finding], CompiledPolicy | None]:
    try:
        policy = compile_content(read_directory(directory), CelConditions())
    except PolicyRefusedError as error:
        return [*error.findings, *overlooked_files(directory)], None
    return [*lint_policy(policy, ActionRegistry()), *overlooked_files(directory)], policy


def _load(directory: Path, exit_code: int = FAILED) -> CompiledPolicy:
    try:
        return compile_content(read_directory(directory), CelConditions())
    except PolicyRefusedError as error:
        raise CommandFailure(_told(directory, error.findings), exit_code) from None


def _told(directory: Path, findings: Sequence[Finding]) -> str:
    more = f" and {_count(len(findings) - 1, 'more finding')}" if len(findings) > 1 else ""
    return f"the policy is refused: {_placed(directory, findings[0])}{more}; `gateway policy lint` shows all"


def _placed(directory: Path, finding: Finding) -> str:
    """Write a finding with the path as it can be opened from here."""
    if not finding.line:
        return str(finding)
    return f"{directory / finding.file}:{finding.line}: {finding.reason}"


def _record(finding: Finding) -> dict[str, object]:
    return {"file": finding.file, "line": finding.line, "reason": finding.reason}


def _print_findings(directory: Path, findings: Sequence[Finding]) -> None:
    for finding in findings:
        terminal.write_line(terminal.printable(_placed(directory, finding)))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        terminal.write_line(terminal.printable(line))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _principal(subject: str | None, tenant: str | None, roles: list[str] | None, claims: list[str] | None) -> Principal:
    if subject is not None and tenant is None and not roles and not claims:
        return _stored_principal(subject)
    if not roles:
        raise CommandFailure("name whom to ask for: `--role` once or more, or `--subject` alone for an account", USAGE)
    from gateway.cli.account_access import parse_claims  # noqa: PLC0415 - see _stored_principal

    return Principal(
        subject=subject or "",
        tenant=tenant or "",
        roles=tuple(sorted(set(roles))),
        claims=parse_claims(claims or ()),
    )


def _stored_principal(name: str) -> Principal:
    # Only this question needs a database; the others shall not wait for its imports.
    from gateway.adapters.identity import AccountServices  # noqa: PLC0415 - see above
    from gateway.cli.account_access import with_accounts  # noqa: PLC0415 - see above

    async def find(services: AccountServices) -> Account | None:
        return await services.accounts.find(name)

    try:
        account = with_accounts(find)
    except (CommandFailure, GatewayError) as error:
        # Whatever keeps the account away, it is no deny.
        reason = str(error).partition("\n")[0]
        raise CommandFailure(f"the account cannot be looked up: {reason}", USAGE) from None
    if account is None:
        raise CommandFailure(f"no account {quoted(name)}; give `--role` to ask for an imagined one", USAGE)
    if account.disabled:
        terminal.note(f"{quoted(name)} is disabled, so it cannot connect; this is what its roles say")
    return Principal(account.name, account.tenant, account.roles, account.claims)


def _data(text: str | None) -> object:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise CommandFailure("`--data` is no JSON; quote it for the shell, as in '{\"amount\": 5}'", USAGE) from None


def _address(text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise CommandFailure(f"`--ip` {quoted(text)} is no IP address", USAGE) from None
