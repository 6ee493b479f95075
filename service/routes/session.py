"""`/v1/session`: a browser logs in with a key, so that its pictures and events need no header."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.errors import CrossOrigin, KeyUnknown
from service.http.api_keys import Role, in_order, rights_of
from service.http.auth import EVERYTHING, SECURED, anybody, needs
from service.http.login_limit import LOGIN
from service.http.origin import is_own_page
from service.http.problems import problems
from service.http.sessions import LIFE_S, cookie_name, session_id_of
from service.state import AppState, app_state

router = APIRouter(tags=["session"])

_MAY_READ = [Depends(needs(Role.READ))]
_State = Annotated[AppState, Depends(app_state)]


class SessionIn(BaseModel):
    """Who logs in."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: Annotated[str, Field(min_length=1, max_length=256, description="An API key.")]


class SessionOut(BaseModel):
    """Who somebody is to the service."""

    name: Annotated[str | None, Field(description="The key's; null without authentication.")]
    roles: Annotated[list[Role], Field(description="The key's, and what they contain.")]
    auth: Annotated[bool, Field(description="Whether the service asks for keys.")]


@router.post(LOGIN, responses=problems(401, 403, 408, 413, 422, 429, 500))
@anybody
async def log_in(
    request: Request, response: Response, session_in: SessionIn, parts: _State
) -> SessionOut:
    """Log a browser in: its cookie stands for the key, for twelve hours or until the key goes.

    Without authentication there is nothing to log in to, and no cookie.
    """
    if is_own_page(request.scope) is False:
        raise CrossOrigin("only a page of this service may log its reader in")
    if parts.sessions is None:
        return SessionOut(name=None, roles=in_order(rights_of(EVERYTHING)), auth=False)
    key = parts.sessions.keys.find(session_in.key.strip())
    if key is None:
        raise KeyUnknown("the API key is not known, or was revoked")
    parts.sessions.end(session_id_of(request.scope))
    _set_cookie(request, response, parts.sessions.open(key))
    request.state.key = key.name  # for the log
    return SessionOut(name=key.name, roles=in_order(rights_of(key.roles)), auth=True)


@router.get(
    LOGIN,
    dependencies=_MAY_READ,
    responses=problems(401, 403, 500),
    openapi_extra=SECURED,
)
async def who_am_i(request: Request, parts: _State) -> SessionOut:
    """Say whose key or session this is, and what it may do."""
    state = request.scope["state"]
    return SessionOut(
        name=state.get("key"),
        roles=in_order(rights_of(state["roles"])),
        auth=parts.sessions is not None,
    )


@router.delete(
    LOGIN,
    dependencies=_MAY_READ,
    responses=problems(401, 403, 500),
    openapi_extra=SECURED,
    status_code=204,
)
async def log_out(request: Request, response: Response, parts: _State) -> None:
    """End the session of this browser; the key stays."""
    if parts.sessions is not None:
        parts.sessions.end(session_id_of(request.scope))
    response.delete_cookie(cookie_name(request.scope), path="/", httponly=True, samesite="strict")


def _set_cookie(request: Request, response: Response, session_id: str) -> None:
    response.set_cookie(
        cookie_name(request.scope),
        session_id,
        max_age=LIFE_S,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
