"""What every token request goes through, whichever its grant: client, proof, scope, claims, log and counting."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.core.accounts import PUBLIC_CLIENT, Account, is_name, roles_in_force, secret_matches
from gateway.core.events import Event
from gateway.core.oauth import OAuthError, OAuthErrorCode, narrow, parse_scope
from gateway.runtime.grants import (
    WRONG_CLIENT,
    Grant,
    Logins,
    TokenAnswer,
    TokenRequest,
    slow_down,
)
from gateway.runtime.identity_ports import AccountStore, HashingBusyError, ThrottledError, Tokens
from gateway.runtime.ports import Log, Metrics
from gateway.runtime.token_issue import TokenTerms, issue_token


class TokenEndpoint:
    """Answers token requests.

    Args:
        grants: The grants that are on.
        accounts: Where clients are.
        logins: Holds guesses of client secrets up.
        tokens: Signs.
        terms: What all tokens have in common.
        clock: Tells the time in Unix seconds.
        log: Where logins and refusals are told.
        metrics: Where they are counted.
    """

    def __init__(
        self,
        grants: Iterable[Grant],
        accounts: AccountStore,
        logins: Logins,
        tokens: Tokens,
        *,
        terms: TokenTerms,
        clock: Callable[[], float],
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._grants = {grant.name: grant for grant in grants}
        self._accounts = accounts
        self._logins = logins
        self._tokens = tokens
        self._terms = terms
        self._clock = clock
        self._log = log
        self._metrics = metrics

    async def answer(self, request: TokenRequest) -> TokenAnswer:
        """Answer a request.

        Raises:
            OAuthError: It is refused.
            StateUnavailableError: The state of accounts could not be read or written.
        """
        try:
            return await self._answer(request)
        except OAuthError as error:
            self.refused(error, request.address, request.form.get("grant_type"))
            raise
        except HashingBusyError as busy:
            late = OAuthError(OAuthErrorCode.TEMPORARILY_UNAVAILABLE, "too many logins at once", busy.retry_after_s)
            self.refused(late, request.address, request.form.get("grant_type"))
            raise late from None

    def refused(self, error: OAuthError, address: str, grant_type: str | None) -> None:
        """Log and count a refusal, also of a request that no grant has seen."""
        grant = grant_type if grant_type in self._grants else "unknown"
        self._metrics.token_failure(grant, error.code.value)
        fields = {} if error.subject is None else {"subject": error.subject}
        self._log.warning(
            Event.TOKEN_REFUSED,
            grant=grant,
            reason=error.code.value,
            detail=error.description,
            remote_addr=address,
            **fields,
        )

    async def _answer(self, request: TokenRequest) -> TokenAnswer:
        now = self._clock()
        grant = self._grant(request)
        client = await self._client(grant, request, now)
        proof = await grant.prove(request, client, now)
        granted = roles_in_force(proof.account.roles, proof.ceiling)
        narrowed = narrow(granted, parse_scope(request.form.get("scope")))
        narrowed_to = proof.ceiling if narrowed is None else narrowed
        now = self._clock()  # a hash, and a wait for others, lie between
        refresh_token = await grant.leave(request, proof, narrowed_to, now)
        client_id = PUBLIC_CLIENT if client is None else client.name
        roles = granted if narrowed is None else narrowed
        issued = issue_token(
            self._tokens,
            self._terms,
            proof.account,
            client_id=client_id,
            roles=roles,
            narrowed=narrowed_to is not None,
            family=proof.family,
            now=now,
        )
        self._metrics.token_issued(grant.name)
        self._log.info(
            Event.TOKEN_ISSUED,
            grant=grant.name,
            subject=proof.account.name,
            tenant=proof.account.tenant,
            client_id=client_id,
            jti=issued.jti,
            remote_addr=request.address,
        )
        return TokenAnswer(
            access_token=issued.minted.token,
            expires_in=self._terms.access_ttl_s,
            scope=" ".join(roles),
            signing_key=issued.minted.signing_key,
            refresh_token=refresh_token,
        )

    def _grant(self, request: TokenRequest) -> Grant:
        name = request.form.get("grant_type")
        if name is None:
            raise OAuthError(OAuthErrorCode.INVALID_REQUEST, "`grant_type` is missing")
        grant = self._grants.get(name)
        if grant is None:
            raise OAuthError(OAuthErrorCode.UNSUPPORTED_GRANT_TYPE, "this grant is not to be had here")
        for parameter in grant.needs:
            if parameter not in request.form:
                raise OAuthError(OAuthErrorCode.INVALID_REQUEST, f"`{parameter}` is missing")
        return grant

    async def _client(self, grant: Grant, request: TokenRequest, now: float) -> Account | None:
        """Authenticate the client; None is the public one, which has no secret."""
        named = request.client
        if named is None or (named.client_id == PUBLIC_CLIENT and named.secret is None):
            if grant.for_public_client:
                return None
            raise OAuthError(OAuthErrorCode.INVALID_CLIENT, "this grant is for clients that authenticate")
        secret = named.secret
        if secret is None:
            raise OAuthError(OAuthErrorCode.INVALID_CLIENT, WRONG_CLIENT)
        account = await self._accounts.find(named.client_id) if is_name(named.client_id) else None
        subject = None if account is None else account.name

        async def check() -> bool:
            return secret_matches(account, secret, now) and account is not None and not account.disabled

        try:
            proven = await self._logins.attempt(named.client_id, request.address, check)
        except ThrottledError as error:
            raise slow_down(error, subject) from None
        if not proven:
            raise OAuthError(OAuthErrorCode.INVALID_CLIENT, WRONG_CLIENT, subject=subject)
        if grant.for_public_client:
            raise OAuthError(
                OAuthErrorCode.UNAUTHORIZED_CLIENT, "this grant is not for service clients", subject=subject
            )
        return account
