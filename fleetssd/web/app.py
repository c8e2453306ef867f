"""The daemon's HTTP port: a plain status page, health, metrics, and the routes that the caller brings along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fleetssd.errors import FleetError
from fleetssd.reasons import explained
from fleetssd.status import Report, to_json

_HERE = Path(__file__).parent
_NONE = "-"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def build_app(read: Callable[[], Report], routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application; `read` reports how things stand now, `routes` are mounted beside the page."""

    def index(_: Request) -> Response:
        return HTMLResponse(_template()(read()), headers=_HEADERS)

    def style(_: Request) -> Response:
        text = (_HERE / "static" / "style.css").read_text(encoding="utf-8")
        return Response(text, media_type="text/css", headers=_HEADERS)

    def health(_: Request) -> Response:
        return JSONResponse(_health(read()), headers=_HEADERS)

    def numbers(_: Request) -> Response:
        from fleetssd.web import metrics  # noqa: PLC0415 - loaded for those who scrape it

        return Response(metrics.render(read()), media_type="text/plain; version=0.0.4", headers=_HEADERS)

    # These are plain functions, so Starlette runs them in threads: the database never blocks the event loop.
    own = [
        Route("/", index),
        Route("/style.css", style),
        Route("/healthz", health),
        Route("/metrics", numbers),
    ]
    return Starlette(routes=[*own, *routes], exception_handlers={FleetError: _unwell})


def _health(report: Report) -> dict[str, Any]:
    status = report.status
    return {
        "status": "ok",
        "now": to_json(status.now),
        "served": status.served.digest if status.served else None,
        "cursor": to_json(status.cursor),
    }


def _unwell(_: Request, error: Exception) -> Response:
    """Say that the database cannot be read, and nothing that a stranger should not see."""
    message = error.message if isinstance(error, FleetError) else "internal error"
    return JSONResponse({"status": "unavailable", "error": message}, status_code=503, headers=_HEADERS)


@cache
def _template() -> Callable[[Report], str]:
    """Load the page at its first visit: a daemon that nobody looks at does without the templates' 5 MB."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    loader = FileSystemLoader(_HERE / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = lambda value: _NONE if value is None else f"{100 * value:.1f}"
    environment.filters["explained"] = explained
    environment.filters["short"] = lambda digest: digest[:12] if digest else _NONE
    environment.filters["moment"] = lambda text: str(text)[:16].replace("T", " ") if text else _NONE
    template = environment.get_template("status.html")

    def render(report: Report) -> str:
        return template.render(status=to_json(report.status), nights=report.nights[::-1], swaps=report.swaps[::-1])

    return render
