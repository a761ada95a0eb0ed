"""The web application: FastAPI hosting the bridge, beside health, CORS and pages such as documentation."""

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from rest_bridge.bridge import Bridge


def create_app(
    bridge: Bridge,
    serving: Callable[[], Awaitable[bool]],
    *,
    cors_origins: Sequence[str] = (),
    pages: Sequence[BaseRoute] = (),
    home: str | None = None,
) -> FastAPI:
    """The application. `serving` says whether the service takes requests, for `GET /health`.

    `cors_origins`: what browsers' pages may call the API from, "*" for any; none: no CORS headers at all.
    `pages` are served beside the bridge, and go before it. `GET /` redirects to `home`, where given.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.get("/health")
    async def health() -> Response:
        if await serving():
            return JSONResponse({"status": "serving"})
        return JSONResponse({"status": "not_serving"}, status_code=503)

    if home is not None:

        @app.get("/")
        async def index() -> Response:
            return RedirectResponse(home)

    app.router.routes.extend(pages)
    app.mount("/", bridge)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=sorted({route.verb for route in bridge.routes}),
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-inferd-ignored", "retry-after"],
        )
    return app
