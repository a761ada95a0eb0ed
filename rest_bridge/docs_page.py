"""The documentation page: an OpenAPI document at /openapi.json, and Swagger UI for it at /docs.

Does not make the document: `openapi` does. The page needs no internet: all its files are served here, and its
Content-Security-Policy forbids to load from other hosts.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from swagger_ui_bundle import swagger_ui_path

#: The files of Swagger UI that the page needs, with their media types. Systems differ in the media type of a
#: script.
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
    "favicon-16x16.png": "image/png",
}

_PAGE = b"""\
<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>inferd</title>
    <link rel="stylesheet" href="/docs/swagger-ui.css">
    <link rel="icon" type="image/png" href="/docs/favicon-32x32.png" sizes="32x32">
    <link rel="icon" type="image/png" href="/docs/favicon-16x16.png" sizes="16x16">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/start.js"></script>
  </body>
</html>
"""

# Without a layout, Swagger UI has no bar for loading other documents. With a validatorUrl, it would send the
# document's address to swagger.io.
_START = b"""\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""

# Swagger UI has inline styles, and images as data URLs.
_POLICY = {
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
}


def docs_routes(document: Mapping[str, Any]) -> list[Route]:
    """The routes of an OpenAPI document at /openapi.json, and of Swagger UI for it at /docs and /docs/."""
    routes = [
        _route("/openapi.json", partial(Response, orjson.dumps(document), media_type="application/json"))
    ]
    for page in ("/docs", "/docs/"):
        routes.append(_route(page, partial(Response, _PAGE, media_type="text/html", headers=_POLICY)))
    routes.append(_route("/docs/start.js", partial(Response, _START, media_type="text/javascript")))
    for name, media_type in _FILES.items():
        path = Path(swagger_ui_path, name)
        routes.append(_route(f"/docs/{name}", partial(FileResponse, path, media_type=media_type)))
    return routes


def _route(path: str, respond: Callable[[], Response]) -> Route:
    async def answer(_: Request) -> Response:
        return respond()

    return Route(path, answer, methods=["GET"])
