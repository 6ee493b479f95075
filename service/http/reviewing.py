"""Which reviewer a request comes from: an API key's name, and the tab of the browser."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from record.result import JsonObject
from service.http.parameters import invalid
from service.results.review_queue import Reviewer
from service.wire import Label

_HEADER = "X-Maskline-Reviewer"
_LABEL: TypeAdapter[str] = TypeAdapter(Label)
# For the OpenAPI document.
REVIEWER_PARAMETER: JsonObject = {
    "name": _HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 128},
    "description": "A random id of whoever looks, such as a browser's tab: two of them are two "
    "reviewers, also under one API key. Needed to claim where authentication is off.",
}


def reviewer_of(request: Request) -> Reviewer:
    """Say who reviews; raises `RequestValidationError` where the header is no label."""
    tab = request.headers.get(_HEADER) or None
    try:
        _LABEL.validate_python(tab or "")
    except ValidationError as error:
        raise _named(error) from error
    return Reviewer(getattr(request.state, "key", None), tab)


def _named(error: ValidationError) -> RequestValidationError:
    first = invalid("header", error).errors()[0]
    return RequestValidationError([{**first, "loc": ("header", _HEADER)}])
