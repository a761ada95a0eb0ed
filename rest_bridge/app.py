"""The web application: the bridge within FastAPI, beside /health, CORS and pages such as the documentation.

Does not listen: `http_server` does.
"""

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from inferd.rest_bridge.bridge import Bridge
from inferd.rest_bridge.errors import HttpError, from_http
from inferd.rest_bridge.pages import put_behind_chain


def create_app(
    bridge: Bridge,
    serving: Callable[[], Awaitable[bool]],
    *,
    cors_origins: Sequence[str] = (),
    pages: Sequence[BaseRoute] = (),
    home: str | None = None,
) -> ASGIApp:
    """The ASGI application.

    `serving` tells whether the service takes requests, for `GET /health`. `cors_origins` are the origins
    whose pages may call the API, "*" for all; if there are none, no CORS headers are sent. `pages` are routes
    that precede the bridge's. `GET /` redirects to `home`, if it is given.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        if await serving():
            return JSONResponse({"status": "serving"})
        return JSONResponse({"status": "not_serving"}, status_code=503)

    if home is not None:

        @app.api_route("/", methods=["GET", "HEAD"])
        async def index() -> Response:
            return RedirectResponse(home)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        # The only error of FastAPI's router is another method on a page.
        message = f"{request.method} is not allowed here"
        body = from_http(HttpError(error.status_code, "method_not_allowed", message)).body
        return Response(body, error.status_code, error.headers, "application/json")

    app.router.routes.extend(pages)
    put_behind_chain(app.router.routes)
    # The bridge is the default and not a mount, because a mount does not match all paths, such as one with a
    # line feed.
    app.router.default = bridge
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=sorted({route.verb for route in bridge.routes}),
            allow_headers=["*"],
            expose_headers=[
                "x-request-id",
                "x-inferd-ignored",
                "x-inferd-job",
                "x-should-retry",
                "location",
                "preference-applied",
                "retry-after",
            ],
        )
        return app
    paths = bridge.fixed_paths.difference(route.path.encode() for route in pages if isinstance(route, Route))
    return _Dispatcher(bridge, paths, app)


class _Dispatcher:
    """Passes requests for `bridge_paths` to the bridge, and all others to the FastAPI application.

    The bridge's paths skip FastAPI's middleware and routes, which take 50 µs a request.
    """

    def __init__(self, bridge: Bridge, bridge_paths: frozenset[bytes], app: ASGIApp) -> None:
        self._bridge = bridge
        self._bridge_paths = bridge_paths
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_for_bridge = scope["type"] == "http" and scope["raw_path"] in self._bridge_paths
        return (self._bridge if is_for_bridge else self._app)(scope, receive, send)
