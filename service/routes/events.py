"""`GET /v1/events`: what happens, as it happens."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from record.result import JsonObject
from service.events import NAMES
from service.http.api_keys import Role
from service.http.auth import SECURED, needs, still_allowed
from service.http.event_stream import EventStream
from service.http.problems import problems
from service.state import AppState, app_state

router = APIRouter(tags=["events"])

_NAME = f"({'|'.join(NAMES)})"
_STREAM: JsonObject = {
    "description": "Server-sent events; their names and fields: docs/operations.md.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


class EventsQuery(BaseModel):
    """Which events, and since which."""

    model_config = ConfigDict(extra="forbid")

    names: Annotated[
        str | None,
        Field(
            pattern=f"^{_NAME}(,{_NAME})*$",
            max_length=200,
            description="Events to be told of, separated by commas; all without. `state` and "
            "`gap` always come.",
        ),
    ] = None
    last_event_id: Annotated[
        str | None, Field(description="As the header Last-Event-ID, which counts where it is sent.")
    ] = None


@router.get(
    "/v1/events",
    dependencies=[Depends(needs(Role.VIEW))],
    responses={200: _STREAM, **problems(401, 403, 408, 413, 422, 429, 500, 503)},
    openapi_extra=SECURED,
    response_class=EventStream,
    status_code=200,
)
async def stream_events(
    request: Request,
    query: Annotated[EventsQuery, Query()],
    parts: Annotated[AppState, Depends(app_state)],
    last_event_id: Annotated[str | None, Header(description="Of the last event received.")] = None,
) -> EventStream:
    """Tell what happens, from now on or from behind an event that was received before.

    `gap` says that events are missing: read anew what you show. The stream ends where the service
    drains or the key is revoked, and begins anew with the last id.
    """
    await request.body()  # has none; if it does, it is bounded while it is read here
    names = NAMES if query.names is None else query.names.split(",")
    since = query.last_event_id if last_event_id is None else last_event_id
    return EventStream(parts.events.subscribe(since, names), still_allowed(request))
