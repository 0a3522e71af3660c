"""As much of a Kubernetes API as Helm asks for when it renders against a cluster: its version, its kinds, and what stands there.

Helm is real, and so is its HTTP; nothing that it sends is stored.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = {"major": "1", "minor": "33", "gitVersion": "v1.33.0", "platform": "linux/amd64"}
KINDS = {
    "v1": ("Secret", "ConfigMap", "Service", "ServiceAccount", "PersistentVolumeClaim", "Pod"),
    "apps/v1": ("Deployment",),
    "batch/v1": ("Job",),
    "networking.k8s.io/v1": ("Ingress",),
}


@contextlib.contextmanager
def api_server(objects: dict[str, dict[str, Any]], kubeconfig: Path) -> Iterator[None]:
    """Serve these objects, by their paths below `/api`, and write the file by which Helm finds the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            answer = _discovery(path) or objects.get(path)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(answer or missing).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cluster = {"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [cluster],
        "contexts": [context],
    }
    kubeconfig.write_text(json.dumps({**config, "users": [{"name": "test", "user": {}}]}))
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _discovery(path: str) -> dict[str, Any] | None:
    groups = [name.split("/") for name in KINDS if "/" in name]
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = [
            {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}]}
            for group, version in groups
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": versions}
    name = path.removeprefix("/apis/").removeprefix("/api/")
    if name in KINDS:
        resources = [
            {
                "name": f"{kind.lower()}s",
                "singularName": "",
                "namespaced": True,
                "kind": kind,
                "verbs": ["get", "list", "create"],
            }
            for kind in KINDS[name]
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}
    return None
