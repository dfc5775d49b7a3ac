"""API documentation: the OpenAPI document, Swagger UI without internet access, and a page for each error reason."""

import html
import json
from functools import lru_cache

from swagger_ui_bundle import swagger_ui_path

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
    "swagger-ui-bundle.js": ("swagger-ui-bundle.js", _SCRIPT),
    "swagger-ui.css": ("swagger-ui.css", ("content-type", "text/css; charset=utf-8")),
    "favicon.png": ("favicon-32x32.png", ("content-type", "image/png")),
}
"""The files in the package by their name in the URL."""
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
    file, content_type = _SWAGGER_UI_FILES[name]
    return Response(200, _read(file), [content_type])


@lru_cache
def _read(file: str) -> bytes:
    content: bytes = (swagger_ui_path / file).read_bytes()
    return content


async def reason_page(request: Request) -> Response:
    """Return the page about an error reason: `type` of a problem links to it."""
    reason = descriptors.reasons().get(request.variables["reason"])
    if reason is None:
        raise RouteNotFound(f"There is no reason {request.variables['reason'][:100]}.")
    name, text = html.escape(reason.name), html.escape(reason.text)
    content = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title></head>
<body><h1>{name}</h1><p>{text}</p><p>HTTP {reason.status.value} · gRPC {reason.code}</p></body></html>"""
    return Response(200, content.encode(), [_HTML, _CONTENT_POLICY])
