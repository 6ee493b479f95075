"""Request parameters from the query or, for clients that cannot set one, from headers."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from service.inspection import Inspector
from service.schemas import ScoreQuery

_PREFIX = "x-maskline-"


async def inspector(request: Request) -> Inspector:
    """Return the app's inspector."""
    found: Inspector = request.app.state.inspector
    return found


def with_headers(query: ScoreQuery, request: Request) -> ScoreQuery:
    """Fill what the query leaves out from `X-Maskline-Part-Id` and the like."""
    headers = {
        name.removeprefix(_PREFIX).replace("-", "_"): value
        for name, value in request.headers.items()
        if name.startswith(_PREFIX)
    }
    if not headers:
        return query
    try:
        return ScoreQuery.model_validate(headers | query.model_dump(exclude_unset=True))
    except ValidationError as error:
        raise invalid("header", error) from error


def invalid(place: str, error: ValidationError) -> RequestValidationError:
    """Say where in a request something is wrong."""
    return RequestValidationError([{**one, "loc": (place, *one["loc"])} for one in error.errors()])
