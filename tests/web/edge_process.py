"""A gateway edge as a process of its own, for signals and exit codes: prints its port, drains as its argument says."""

from __future__ import annotations

import asyncio
import sys

from edge_server import EchoNode, Log, Metrics, Verifier

from gateway.core.floods import FloodGate
from gateway.core.handshake import HandshakeRules
from gateway.core.origins import OriginRule
from gateway.web.app import create_app
from gateway.web.edge import Edge
from gateway.web.server import GatewayServer, build_config, listen, listening_port, loop_factory
from gateway.web.websocket import Gate


async def serve(drain: str) -> None:
    """Serve until a signal comes."""
    node, metrics = EchoNode(), Metrics()
    app = create_app(node=node, gate=Gate(Verifier(), HandshakeRules(OriginRule()), (), metrics, Log()))

    async def drain_it() -> None:
        sys.stdout.write("draining\n")
        sys.stdout.flush()
        if drain == "never":
            await asyncio.Event().wait()
        for echo in node.connections:
            echo.transport.close(1001, "draining", 0.2)
        for echo in node.connections:
            await echo.gone

    server = GatewayServer(build_config(app, Edge(metrics, lambda: False, FloodGate(0))), drain_it)
    listeners = listen("127.0.0.1", 0)
    sys.stdout.write(f"{listening_port(listeners)}\n")
    sys.stdout.flush()
    await server.serve(listeners)
    sys.stdout.write("stopped\n")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(sys.argv[1]))
