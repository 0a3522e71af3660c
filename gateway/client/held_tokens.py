"""The tokens of one client over their life: got once, renewed when they end.

Owns when a new token is wanted and how it is got. Refuses to own the HTTP that gets it: see `authorization`.
"""

from __future__ import annotations

import contextlib
import time

from gateway.client.authorization import Authorization, Login, Tokens
from gateway.client.errors import LoginRefusedError

RENEWED_BEFORE_S = 60.0
"""How long before its end a token is renewed: when the gateway says `expiring`. A shorter life is renewed in its middle."""


class HeldTokens:
    """Tokens that renew themselves: by the refresh token while it is good, else by a new login.

    Args:
        login: Who logs in.
        authorization: Where.
    """

    def __init__(self, login: Login, authorization: Authorization) -> None:
        self.current: Tokens | None = None
        self._login = login
        self._authorization = authorization
        self._since = 0.0

    async def usable(self) -> Tokens:
        """Give tokens that have not ended; log in where there are none.

        Raises:
            LoginRefusedError: The gateway gave none.
            UnreachableError: It did not answer.
        """
        if self.current is None:
            return self._keep(await self._login.tokens(self._authorization))
        if 0 < self.current.expires_at <= time.time():
            return await self.renewed()
        return self.current

    async def renewed(self) -> Tokens:
        """Give new tokens, whether or not the present ones have ended.

        Raises:
            LoginRefusedError: The gateway gave none, or there is none but the present one.
            UnreachableError: It did not answer.
        """
        held = self.current
        if held is not None and held.refresh_token is not None:
            with contextlib.suppress(LoginRefusedError):
                return self._keep(await self._authorization.refresh(held))
        fresh = await self._login.tokens(self._authorization)
        if fresh == held:
            raise LoginRefusedError("invalid_grant", "no other token than the last one is at hand", 400)
        return self._keep(fresh)

    def renewal_wait_s(self) -> float:
        """Tell in how many seconds the tokens shall be renewed.

        The gateway says `expiring` at once where a token has less than a minute left. Following at once would be a circle with
        tokens that never have more.
        """
        if self.current is None or self.current.expires_at <= 0:
            return 0.0
        life_s = self.current.expires_at - self._since
        return max(0.0, self.current.expires_at - min(RENEWED_BEFORE_S, life_s / 2) - time.time())

    def _keep(self, tokens: Tokens) -> Tokens:
        self.current = tokens
        self._since = time.time()
        return tokens
