"""The page at `/` to try the gateway, and the JavaScript client that it is built on.

Owns which files are served, and the content security policy that lets nothing else run, load or be sent anywhere. Refuses to own
whether there is a page at all: it is for development, and the composition root leaves the router out elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

from fastapi import APIRouter, Request, Response

MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "index.html": "text/html; charset=utf-8",
        "page.css": "text/css; charset=utf-8",
        "icon.svg": "image/svg+xml",
        # RFC 9239: the one media type of JavaScript.
        "page.js": "text/javascript; charset=utf-8",
        "dom.js": "text/javascript; charset=utf-8",
        "rooms.js": "text/javascript; charset=utf-8",
        "wire.js": "text/javascript; charset=utf-8",
        "words.js": "text/javascript; charset=utf-8",
        "portcullis.js": "text/javascript; charset=utf-8",
    }
)
"""Every file that the page has; nothing outside this table is ever read, so no path can lead anywhere else."""

# `connect-src 'self'` covers ws: and wss: of the same host and port (CSP 3, section 6.7.2.8).
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # Asked for anew each time, and sent anew only after an upgrade of the gateway.
        "Cache-Control": "no-cache",
    }
)


@dataclass(frozen=True, slots=True)
class _PageFile:
    content: bytes
    media_type: str
    etag: str

    def response(self, request: Request) -> Response:
        headers = {**_HEADERS, "ETag": self.etag}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def _read(name: str) -> _PageFile:
    content = (files("gateway.web") / "page" / name).read_bytes()
    return _PageFile(content, MEDIA_TYPES[name], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def page_router() -> APIRouter:
    """Serve the page at `/` and its files under `/page/`, read once."""
    pages = {name: _read(name) for name in MEDIA_TYPES}
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return pages["index.html"].response(request)

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(request: Request, name: str) -> Response:
        page = pages.get(name)
        return page.response(request) if page else Response(status_code=404)

    return router
