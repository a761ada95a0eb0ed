"""The web application: FastAPI hosting the bridge, beside health, CORS and pages such as documentation."""

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from inferd.rest_bridge.bridge import Bridge
from inferd.rest_bridge.errors import HttpError, from_http
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send


def create_app(
    bridge: Bridge,
    serving: Callable[[], Awaitable[bool]],
    *,
    cors_origins: Sequence[str] = (),
    pages: Sequence[BaseRoute] = (),
    home: str | None = None,
) -> ASGIApp:
    """The application. `serving` says whether the service takes requests, for `GET /health`.

    `cors_origins`: what browsers' pages may call the API from, "*" for any; none: no CORS headers at all.
    `pages` are served beside the bridge, and go before it. `GET /` redirects to `home`, where given.
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
        # Another verb on a page of ours. The router knows no other fault.
        message = f"{request.method} is not allowed here"
        body = from_http(HttpError(error.status_code, "method_not_allowed", message)).body
        return Response(body, error.status_code, error.headers, "application/json")

    app.router.routes.extend(pages)
    # As the default, not as a mount: that would not match every path, such as one with a line feed.
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
    return _Direct(bridge, paths, app)


class _Direct:
    """Has the bridge answer what is for these paths of its own, and `others` the rest: the way through
    FastAPI's middleware and past its routes costs 50 µs a request."""

    def __init__(self, bridge: Bridge, paths: frozenset[bytes], others: ASGIApp) -> None:
        self._bridge = bridge
        self._paths = paths
        self._others = others

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_ours = scope["type"] == "http" and scope["raw_path"] in self._paths
        return (self._bridge if is_ours else self._others)(scope, receive, send)
