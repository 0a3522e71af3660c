"""Who is here: this node's connections by session, subject and tenant, its subscriptions, and the fan-out to them.

Owns membership and delivery on this node. Refuses to own what crosses nodes (the broker) and what a connection does with a push.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.core.frames import BroadcastPush, DirectPush, MessagePush, PresencePush, SharedPush
from gateway.core.principal import Principal
from gateway.runtime.ports import Broadcast, Direct, Message, Metrics, Presence


class Member(Protocol):
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

    def push(self, shared: SharedPush) -> None:
        """Send a push. Never waits, never raises: a full buffer ends the connection, and nobody else's delivery."""
        ...

    def push_message(self, channel: str, shared: SharedPush) -> None:
        """Send a publication on a subscribed channel, behind the reply to its subscribe."""
        ...

    def may_see_presence(self, channel: str) -> bool:
        """Ask the policy whether joins and leaves of the channel may be shown."""
        ...


class Hub:
    """The connections and subscriptions of one node; it is the broker's receiver.

    Args:
        metrics: Counts deliveries.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._members: dict[str, Member] = {}
        self._by_subject: dict[str, dict[str, dict[str, Member]]] = {}
        self._by_tenant: dict[str, dict[str, Member]] = {}
        self._by_address: dict[str, int] = {}
        self._channels: dict[str, dict[Member, None]] = {}
        self._subscriptions = 0

    # -------------------------------------------------------------------------------------------- members

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> None:
        """Take a connection in."""
        principal, name = member.principal, member.session_id
        self._members[name] = member
        self._by_subject.setdefault(principal.subject, {}).setdefault(principal.tenant, {})[name] = member
        self._by_tenant.setdefault(principal.tenant, {})[name] = member
        self._by_address[member.address_key] = self._by_address.get(member.address_key, 0) + 1

    def remove(self, member: Member) -> bool:
        """Let a connection go; its subscriptions are ended one by one before. Answer whether it was here."""
        name = member.session_id
        if self._members.pop(name, None) is None:
            return False
        principal = member.principal
        _discard(self._by_subject[principal.subject], principal.tenant, name)
        if not self._by_subject[principal.subject]:
            del self._by_subject[principal.subject]
        _discard(self._by_tenant, principal.tenant, name)
        left = self._by_address[member.address_key] - 1
        if left:
            self._by_address[member.address_key] = left
        else:
            del self._by_address[member.address_key]
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

    def subscribe(self, member: Member, channel: str) -> bool:
        """Deliver the channel to a connection from now on; answer whether it is the first on this node."""
        subscribers = self._channels.get(channel)
        if subscribers is None:
            self._channels[channel] = {member: None}
            self._subscriptions += 1
            return True
        if member not in subscribers:
            subscribers[member] = None
            self._subscriptions += 1
        return False

    def unsubscribe(self, member: Member, channel: str) -> bool:
        """Deliver it no longer; answer whether that was the last subscriber on this node."""
        subscribers = self._channels.get(channel)
        if subscribers is None or member not in subscribers:
            return False
        del subscribers[member]
        self._subscriptions -= 1
        if subscribers:
            return False
        del self._channels[channel]
        return True

    # -------------------------------------------------------------------------------------------- delivery

    def message(self, message: Message) -> None:
        """Hand a publication to its subscribers."""
        subscribers = self._channels.get(message.channel)
        if not subscribers:
            return
        channel = message.channel
        shared = SharedPush(
            MessagePush(
                channel=channel,
                data=message.data,
                sender=message.sender,
                at=message.at,
                offset=msgspec.UNSET if message.offset is None else message.offset,
                epoch=msgspec.UNSET if message.epoch is None else message.epoch,
            )
        )
        for member in list(subscribers):  # a push may end a slow consumer, and so its subscriptions
            member.push_message(channel, shared)
        self._metrics.delivered(len(subscribers))

    def presence(self, presence: Presence) -> None:
        """Hand a join or leave to the subscribers that may see it, but not to the subject itself."""
        shared = SharedPush(PresencePush(presence.channel, presence.event, presence.subject))
        who = (presence.tenant, presence.subject)
        for member in list(self._channels.get(presence.channel, ())):
            if (member.principal.tenant, member.principal.subject) != who and member.may_see_presence(presence.channel):
                member.push_message(presence.channel, shared)

    def direct(self, direct: Direct) -> int:
        """Hand a direct message to the user's connections; answer how many."""
        shared = SharedPush(DirectPush(direct.data, direct.sender, direct.at))
        return self._push_to(list(self._by_subject.get(direct.subject, {}).get(direct.tenant, {}).values()), shared)

    def broadcast(self, broadcast: Broadcast) -> None:
        """Hand a broadcast to the tenant's connections."""
        shared = SharedPush(BroadcastPush(broadcast.data, broadcast.sender, broadcast.at))
        self._push_to(list(self._by_tenant.get(broadcast.tenant, {}).values()), shared)

    def _push_to(self, members: list[Member], shared: SharedPush) -> int:
        for member in members:
            member.push(shared)
        self._metrics.delivered(len(members))
        return len(members)


def _discard(index: dict[str, dict[str, Member]], key: str, name: str) -> None:
    entries = index[key]
    del entries[name]
    if not entries:
        del index[key]
