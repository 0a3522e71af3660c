"""Who is here: this node's connections by session, subject and tenant, and its subscriptions; and what is for whom of them.

Owns membership. Refuses to own what crosses nodes (the broker), when and how a push is delivered (`fan_out`), and what a connection
does with it.
"""

from __future__ import annotations

from typing import Protocol

from gateway.core.channels import Position
from gateway.core.frames import BroadcastPush, DirectPush, MessagePush, PresencePush, SharedPush
from gateway.core.principal import Principal
from gateway.runtime.fan_out import Audience, FanOut, Recipient
from gateway.runtime.ports import Broadcast, Direct, Metrics, Presence


class Member(Recipient, Protocol):
    """A connection as the hub sees it."""

    @property
    def session_id(self) -> str:
        """Give its name."""
        ...

    @property
    def principal(self) -> Principal:
        """Give who speaks on it now."""
        ...

    @property
    def address_key(self) -> str:
        """Give what limits by address count."""
        ...


class Hub:
    """The connections and subscriptions of one node; it is the broker's receiver.

    Args:
        fan_out: Delivers.
        metrics: Counts what its audiences get.
    """

    def __init__(self, fan_out: FanOut, metrics: Metrics) -> None:
        self._metrics = metrics
        self._fan_out = fan_out
        self._members: dict[str, Member] = {}
        self._by_subject: dict[str, dict[str, dict[str, Member]]] = {}
        self._by_tenant: dict[str, Audience] = {}
        self._by_address: dict[str, int] = {}
        self._channels: dict[str, Audience] = {}
        self._subscriptions = 0

    # -------------------------------------------------------------------------------------------- members

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> None:
        """Take a connection in."""
        principal, name = member.principal, member.session_id
        self._members[name] = member
        self._by_subject.setdefault(principal.subject, {}).setdefault(principal.tenant, {})[name] = member
        tenant = self._by_tenant.get(principal.tenant)
        if tenant is None:
            tenant = self._by_tenant[principal.tenant] = Audience(self._metrics)
        tenant.add(member)
        self._by_address[member.address_key] = self._by_address.get(member.address_key, 0) + 1

    def remove(self, member: Member) -> bool:
        """Let a connection go; its subscriptions are ended one by one before. Answer whether it was here."""
        name = member.session_id
        if self._members.pop(name, None) is None:
            return False
        principal = member.principal
        tenants = self._by_subject[principal.subject]
        del tenants[principal.tenant][name]
        if not tenants[principal.tenant]:
            del tenants[principal.tenant]
        if not tenants:
            del self._by_subject[principal.subject]
        tenant = self._by_tenant[principal.tenant]
        tenant.remove(member)
        if not len(tenant):
            del self._by_tenant[principal.tenant]
        left = self._by_address[member.address_key] - 1
        if left:
            self._by_address[member.address_key] = left
        else:
            del self._by_address[member.address_key]
        self._fan_out.forget(member)
        return True

    def count_subject(self, tenant: str, subject: str) -> int:
        """Count the connections of a user."""
        return len(self._by_subject.get(subject, {}).get(tenant, ()))

    def count_address(self, address_key: str) -> int:
        """Count the connections from an address."""
        return self._by_address.get(address_key, 0)

    def sessions_of(self, subject: str) -> list[str]:
        """Name the sessions of a subject, in any tenant."""
        return [name for members in self._by_subject.get(subject, {}).values() for name in members]

    # -------------------------------------------------------------------------------------------- subscriptions

    def channels(self) -> int:
        """Count the channels with a subscriber on this node."""
        return len(self._channels)

    def subscriptions(self) -> int:
        """Count the subscriptions on this node."""
        return self._subscriptions

    def subscribe(self, recipient: Recipient, channel: str) -> bool:
        """Deliver the channel to a connection from now on; answer whether it is the first on this node."""
        audience = self._channels.get(channel)
        first = audience is None
        if audience is None:
            audience = self._channels[channel] = Audience(self._metrics, channel)
        if recipient not in audience:
            audience.add(recipient)
            self._subscriptions += 1
        return first

    def unsubscribe(self, recipient: Recipient, channel: str) -> bool:
        """Deliver it no longer, nor what waits to be; answer whether that was the last subscriber on this node."""
        audience = self._channels.get(channel)
        if audience is None or recipient not in audience:
            return False
        audience.remove(recipient)
        self._subscriptions -= 1
        if len(audience):
            return False
        del self._channels[channel]
        return True

    def replace(self, recipient: Recipient, other: Recipient, channel: str) -> None:
        """Deliver a channel to another one from now on, in place of a subscriber that has been given what was due."""
        audience = self._channels[channel]
        audience.remove(recipient)
        audience.add(other)

    def due(self, recipient: Recipient, channel: str | None = None) -> list[SharedPush]:
        """Give what waits for a connection, all of it or what was published to one channel; the caller is to send it at once."""
        if channel is None:
            return self._fan_out.due(recipient)
        audience = self._channels.get(channel)
        return [] if audience is None or audience.idle or recipient not in audience else audience.due(recipient)

    # -------------------------------------------------------------------------------------------- what comes for them

    def message(self, channel: str, data: object, sender: str, at: float, position: Position | None) -> None:
        """Hand a publication to its subscribers."""
        audience = self._channels.get(channel)
        if audience is None:
            return
        push = (
            MessagePush(channel, data, sender, at)
            if position is None
            else MessagePush(channel, data, sender, at, position.offset, position.epoch)
        )
        self._fan_out.push(audience, SharedPush(push))

    def presence(self, presence: Presence) -> None:
        """Hand a join or leave to the subscribers that may see it, but not to the subject itself."""
        audience = self._channels.get(presence.channel)
        if audience is not None:
            push = PresencePush(presence.channel, presence.event, presence.subject)
            self._fan_out.push(audience, SharedPush(push, about=(presence.tenant, presence.subject)))

    def direct(self, direct: Direct) -> int:
        """Hand a direct message to the user's connections; answer how many."""
        shared = SharedPush(DirectPush(direct.data, direct.sender, direct.at))
        members = self._by_subject.get(direct.subject, {}).get(direct.tenant, {})
        for member in members.values():
            self._fan_out.push_to(member, shared)
        return len(members)

    def broadcast(self, broadcast: Broadcast) -> None:
        """Hand a broadcast to the tenant's connections."""
        audience = self._by_tenant.get(broadcast.tenant)
        if audience is not None:
            self._fan_out.push(audience, SharedPush(BroadcastPush(broadcast.data, broadcast.sender, broadcast.at)))
