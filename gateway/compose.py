"""The composition root: the only place that knows every room. Builds a gateway from its settings, and runs it.

Owns which adapter stands behind which port, and the order of opening and closing. A new action, credential source, broker or
setting is one line here. Refuses to own any behaviour.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import BinaryIO

from fastapi import FastAPI, Request
from pydantic import SecretStr
from starlette.types import ASGIApp

from gateway.adapters.cel import CelConditions
from gateway.adapters.identity import AccountServices, Identity, open_accounts, open_identity
from gateway.adapters.memory_broker import MemoryBroker
from gateway.adapters.policy_directory import PolicyDirectory
from gateway.adapters.policy_files import load_policy
from gateway.adapters.prometheus_metrics import PrometheusMetrics
from gateway.adapters.structlog_log import configure_logging
from gateway.core.commands import BUILT_IN_ACTIONS, ActionRegistry, ActionSpec
from gateway.core.decision import ChannelOptions
from gateway.core.errors import GatewayError
from gateway.core.events import Event
from gateway.core.floods import FloodGate
from gateway.core.handshake import HandshakeRules
from gateway.core.origins import OriginRule
from gateway.core.session_ports import SessionLimits
from gateway.runtime.extensions import ActionHandler
from gateway.runtime.folding_log import FoldingLog
from gateway.runtime.garbage import Garbage
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.loop_lag import watch_loop_lag
from gateway.runtime.node import Node, NodeLimits
from gateway.runtime.ports import Log
from gateway.runtime.token_issue import TokenTerms
from gateway.settings import Settings
from gateway.web.app import create_app
from gateway.web.asyncapi import asyncapi_router
from gateway.web.edge import Edge
from gateway.web.oauth import OAuthServices, oauth_router
from gateway.web.operations import Operations, operations_router
from gateway.web.page import page_router
from gateway.web.plain_edge import PlainEdge
from gateway.web.remote import remote_address
from gateway.web.request_id import RequestIds
from gateway.web.server import GatewayServer, build_config, listen, listening_port, loop_factory
from gateway.web.websocket import Gate

DISTRIBUTION = "portcullis-gateway"


class DevelopmentUsersError(GatewayError):
    """Production was asked to start on a database with the demo users of development mode."""


@dataclass(frozen=True, slots=True)
class Extension:
    """An action of the embedding program.

    Args:
        spec: What it takes.
        handler: What carries it out.
    """

    spec: ActionSpec
    handler: ActionHandler


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is open.

    Args:
        settings: What it was built from.
        app: The ASGI application.
        edge: What the server's protocol classes ask.
        node: Its connections.
        identity: Its accounts and tokens.
        lifecycle: Its way out.
        log: Its log.
    """

    settings: Settings
    app: FastAPI
    edge: Edge
    node: Node
    identity: Identity
    lifecycle: Lifecycle
    log: Log


@contextlib.asynccontextmanager
async def open_gateway(
    settings: Settings, *, extensions: Sequence[Extension] = (), log: Log | None = None
) -> AsyncIterator[Gateway]:
    """Open everything that the settings name, and keep it running until the context is left.

    Args:
        settings: Validated.
        extensions: Actions beside the built-in ones.
        log: Where events go; by default what `open_log` gives.

    Raises:
        GatewayError: What cannot be opened, in one line.
    """
    registry = ActionRegistry((*BUILT_IN_ACTIONS, *(extension.spec for extension in extensions)))
    metrics = PrometheusMetrics(registry.names())
    folding_log = FoldingLog(log or open_log(settings), time.monotonic)
    policies = PolicyDirectory(settings.policy_dir, CelConditions(), folding_log, metrics)
    # Before the keys are unsealed: on development's database they were sealed with its secret, which would be told instead.
    await _refuse_development_users(settings)
    async with open_identity(
        settings.database_url,
        lambda: policies.current.roles,
        secret_key=settings.secret_key.get_secret_value(),
        secret_key_previous=_secret(settings.secret_key_previous),
        terms=TokenTerms(
            settings.public_url, settings.audience, settings.access_token_ttl_s, settings.refresh_token_ttl_s
        ),
        password_grant=settings.password_grant,
        log=folding_log,
        metrics=metrics,
    ) as identity:
        broker = MemoryBroker(settings.history_bytes, time.time)
        node = Node(
            policy=policies.current,
            registry=registry,
            broker=broker,
            verifier=identity.credentials,
            metrics=metrics,
            log=folding_log,
            limits=_limits(settings),
            clock=time.time,
            timer=time.perf_counter,
            entropy=secrets.token_bytes,
            handlers={extension.spec.name: extension.handler for extension in extensions},
        )
        metrics.broker_up(True)
        folding_log.info(Event.BROKER_UP, kind="memory")
        metrics.policy_version(policies.current.version)
        lifecycle = Lifecycle(node, settings.drain_s, random.random, folding_log)
        edge = Edge(
            metrics=metrics,
            draining=lambda: node.draining,
            floods=FloodGate(settings.handshakes_per_s),
            trusted_proxies=settings.trusted_proxies,
        )
        gateway = Gateway(
            settings=settings,
            app=_application(
                settings, edge, node, identity, metrics, folding_log, registry=registry, policies=policies
            ),
            edge=edge,
            node=node,
            identity=identity,
            lifecycle=lifecycle,
            log=folding_log,
        )
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(work, name=name)
                for name, work in {
                    "clock": node.keep_time(),
                    "open connections": node.follow_policy(),
                    "policies": policies.run(node.adopt_policy),
                    "histories": broker.run(),
                    "changes": identity.changes.run(node.apply),
                    "folded events": folding_log.run(),
                    "loop lag": watch_loop_lag(metrics),
                }.items()
            ]
            try:
                yield gateway
            finally:
                for task in running:
                    task.cancel()


def open_log(settings: Settings, stream: BinaryIO | None = None) -> Log:
    """Configure the log of this process: readable in development, JSON in production."""
    return configure_logging(level=settings.log_level, readable=settings.development, stream=stream)


def _application(
    settings: Settings,
    edge: Edge,
    node: Node,
    identity: Identity,
    metrics: PrometheusMetrics,
    log: Log,
    *,
    registry: ActionRegistry,
    policies: PolicyDirectory,
) -> FastAPI:
    def channels() -> Sequence[tuple[str, ChannelOptions]]:
        return policies.current.channel_patterns()

    def client_address(request: Request) -> str:
        return remote_address(request, settings.trusted_proxies)

    routers = [
        oauth_router(
            OAuthServices(
                tokens=identity.tokens,
                endpoint=identity.endpoint,
                credentials=identity.credentials,
                client_address=client_address,
                clock=time.time,
            )
        ),
        operations_router(
            Operations(
                checks={"database": identity.database.ping, "broker": _in_process},
                draining=lambda: node.draining,
                render=metrics.render,
                metrics_token=_secret(settings.metrics_token),
                trusted_proxies=settings.trusted_proxies,
            )
        ),
    ]
    if settings.development:
        routers.append(page_router())
    if settings.docs:
        routers.append(
            asyncapi_router(
                registry,
                channels,
                settings.public_url,
                version(DISTRIBUTION),
            )
        )
    gate = Gate(
        verifier=identity.credentials,
        rules=HandshakeRules(
            OriginRule.build(settings.public_url, settings.allowed_origins, loopback=settings.development),
            settings.query_token,
        ),
        trusted_proxies=settings.trusted_proxies,
        metrics=metrics,
        log=log,
        max_frame_bytes=settings.max_frame_bytes,
    )

    def with_plain_edge(app: ASGIApp) -> ASGIApp:
        return PlainEdge(app, edge)

    def with_request_ids(app: ASGIApp) -> ASGIApp:
        return RequestIds(app, log=log, clock=time.monotonic, trusted_proxies=settings.trusted_proxies)

    return create_app(
        node=node,
        gate=gate,
        routers=routers,
        middleware=(with_plain_edge, with_request_ids),
        docs=settings.docs,
        version=version(DISTRIBUTION),
    )


async def _in_process() -> None:
    """Check the memory broker: it is up while this process is."""


def _limits(settings: Settings) -> NodeLimits:
    return NodeLimits(
        max_connections=settings.max_connections,
        max_connections_per_user=settings.max_connections_per_user,
        max_connections_per_address=settings.max_connections_per_address,
        send_buffer_bytes=settings.send_buffer_bytes,
        session=SessionLimits(
            max_frame_bytes=settings.max_frame_bytes,
            commands_per_s=settings.commands_per_s,
            max_channels=settings.max_channels,
            heartbeat_s=settings.heartbeat_s,
        ),
    )


async def _refuse_development_users(settings: Settings) -> None:
    if settings.development:
        return
    async with open_account_services(settings) as services:
        names = await services.accounts.development_users()
    if names:
        raise DevelopmentUsersError(
            "the database holds the demo users of development mode; remove each with `gateway users delete NAME`: "
            + ", ".join(names)
        )


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


# ---------------------------------------------------------------------------------------------------- running


def run_server(
    settings: Settings,
    host: str,
    port: int,
    *,
    ready: Callable[[Gateway, int], contextlib.AbstractAsyncContextManager[None]] | None = None,
) -> int:
    """Serve until a signal ends it; give the exit code.

    Args:
        settings: Validated, with the address in `public_url`.
        host: Where to listen.
        port: Where to listen; 0 for any free port.
        ready: Entered once everything is open and before the first request, with the gateway and its port.

    Raises:
        GatewayError: What cannot be opened, in one line.
    """
    sockets = listen(host, port)

    async def main() -> None:
        async with open_gateway(settings) as gateway, contextlib.AsyncExitStack() as stack:
            served = listening_port(sockets)
            if ready is not None:
                await stack.enter_async_context(ready(gateway, served))
            config = build_config(
                gateway.app,
                gateway.edge,
                max_frame_bytes=settings.max_frame_bytes,
                compression=settings.compression,
            )
            gateway.log.info(
                Event.SERVER_STARTED,
                host=host,
                port=served,
                environment=settings.environment,
                version=version(DISTRIBUTION),
                policy=gateway.node.policy.version,
            )
            collecting = asyncio.create_task(Garbage(lambda: gateway.node.opened).run(), name="garbage")
            try:
                await GatewayServer(config, gateway.lifecycle.drain).serve(sockets)
            finally:
                collecting.cancel()
            gateway.log.info(Event.SERVER_STOPPED)

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    finally:
        for listener in sockets:
            listener.close()
    return 0


def open_account_services(
    settings: Settings,
) -> contextlib.AbstractAsyncContextManager[AccountServices]:
    """Open the account commands alone, with the roles of the policy that the settings name."""
    return open_accounts(settings.database_url, lambda: load_policy(settings.policy_dir, CelConditions()).roles)
