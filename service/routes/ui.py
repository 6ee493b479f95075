"""`/ui/`: the page. Its files are open to all; what it shows comes from the API, which is not."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from service.http.auth import anybody
from service.http.static_files import answer
from service.state import AppState, app_state

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[1] / "ui"
PAGE = "/ui/"
_START = "index.html"
_METHODS = ["GET", "HEAD"]
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; font-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Without a referrer, browsers send `Origin: null` where a session's cookie needs the page's.
    "Referrer-Policy": "same-origin",
}


@router.api_route("/", methods=_METHODS)
@router.api_route("/ui", methods=_METHODS)
@anybody
async def to_page() -> RedirectResponse:
    """Lead whoever opens the service's address to the page."""
    return RedirectResponse(PAGE, 307)


@router.api_route("/ui/{path:path}", methods=_METHODS)
@anybody
async def read_file(
    request: Request, path: str, parts: Annotated[AppState, Depends(app_state)]
) -> Response:
    """Return a file of the page."""
    file = parts.page.get(path or _START)
    if file is None:
        raise HTTPException(404, "the page has no such file", _HEADERS)
    return answer(file, request.headers, _HEADERS)
