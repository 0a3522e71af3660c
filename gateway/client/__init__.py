"""The Python client: logs in, connects, signs, verifies, and comes back by the rules of the protocol."""

from gateway.client.authorization import (
    Authorization,
    Login,
    PasswordLogin,
    ServiceLogin,
    Ticket,
    TokenLogin,
    Tokens,
)
from gateway.client.client import GatewayClient
from gateway.client.connection import Connection, Direction
from gateway.client.errors import (
    ClientError,
    CommandRefusedError,
    ConnectionEndedError,
    LoginRefusedError,
    ProtocolViolationError,
    PushesNotReadError,
    UnreachableError,
    UpgradeRefusedError,
)
from gateway.client.events import Connected, Disconnected, Event, Gap, Position, Subscribed, SubscriptionLost
from gateway.core.frames import (
    BroadcastPush,
    DirectPush,
    DrainingPush,
    ErrorFrame,
    ExpiringPush,
    MessagePush,
    PresencePush,
    UnsubscribedPush,
    Welcome,
)

__all__ = [
    "Authorization",
    "BroadcastPush",
    "ClientError",
    "CommandRefusedError",
    "Connected",
    "Connection",
    "ConnectionEndedError",
    "DirectPush",
    "Direction",
    "Disconnected",
    "DrainingPush",
    "ErrorFrame",
    "Event",
    "ExpiringPush",
    "Gap",
    "GatewayClient",
    "Login",
    "LoginRefusedError",
    "MessagePush",
    "PasswordLogin",
    "Position",
    "PresencePush",
    "ProtocolViolationError",
    "PushesNotReadError",
    "ServiceLogin",
    "Subscribed",
    "SubscriptionLost",
    "Ticket",
    "TokenLogin",
    "Tokens",
    "UnreachableError",
    "UnsubscribedPush",
    "UpgradeRefusedError",
    "Welcome",
]
