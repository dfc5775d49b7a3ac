"""API documentation: the OpenAPI document, Swagger UI without internet access, and a page for each error reason."""

import html
import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from contract import descriptors, openapi
from gateway.http_types import Request, Response
from kit.errors import RouteNotFound

_HTML = ("content-type", "text/html; charset=utf-8")
_JSON = ("content-type", "application/json")
_SCRIPT = ("content-type", "text/javascript; charset=utf-8")
_CONTENT_POLICY = (
    "content-security-policy",
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'",
)
_SWAGGER_UI_FILES = {
    "swagger-ui-bundle.js": _SCRIPT,
    "swagger-ui.css": ("content-type", "text/css; charset=utf-8"),
    "favicon.png": ("content-type", "image/png"),
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>API</title><link rel="icon" href="/docs/favicon.png">
<link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="ui"></div><script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>"""
_START_SCRIPT = """SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", deepLinking: true, persistAuthorization: true,
  tryItOutEnabled: true, displayRequestDuration: true, docExpansion: "none", filter: true});"""


async def openapi_document(_: Request) -> Response:
    """Return the OpenAPI document."""
    return Response(200, _document(), [_JSON])


@lru_cache(maxsize=1)
def _document() -> bytes:
    return json.dumps(openapi.document()).encode()


async def page(_: Request) -> Response:
    """Return the page of Swagger UI."""
    return Response(200, _PAGE.encode(), [_HTML, _CONTENT_POLICY])


async def page_file(request: Request) -> Response:
    """Return a file of Swagger UI, or the script that starts it."""
    name = request.variables["file"]
    if name == "start.js":
        return Response(200, _START_SCRIPT.encode(), [_SCRIPT])
    if name not in _SWAGGER_UI_FILES:
        raise RouteNotFound(f"There is no file {name[:100]} here.")
    return Response(200, _swagger_ui_file(name), [_SWAGGER_UI_FILES[name]])


@lru_cache
def _swagger_ui_file(name: str) -> bytes:
    """Read a file of Swagger UI from the package that ships it, without importing it: that would import FastAPI."""
    package = find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise RouteNotFound("Swagger UI is not installed here.")
    return (Path(package.origin).parent / "static" / name).read_bytes()


async def reason_page(request: Request) -> Response:
    """Return the page about an error reason: `type` of a problem links to it."""
    reason = descriptors.reasons().get(request.variables["reason"])
    if reason is None:
        raise RouteNotFound(f"There is no reason {request.variables['reason'][:100]}.")
    name, text = html.escape(reason.name), html.escape(reason.text)
    content = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title></head>
<body><h1>{name}</h1><p>{text}</p><p>HTTP {reason.status.value} · gRPC {reason.code}</p></body></html>"""
    return Response(200, content.encode(), [_HTML, _CONTENT_POLICY])
