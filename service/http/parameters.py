"""Request parameters from the query or, for clients that cannot set one, from headers."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from record.result import JsonObject
from service.schemas.scoring import ScoreQuery

_PREFIX = "x-maskline-"


def score_query(request: Request) -> ScoreQuery:
    """Read an inspection's parameters by hand: FastAPI's way costs a quarter of a millisecond.

    The query wins over headers, `X-Maskline-Part-Id` and the like. Raises `RequestValidationError`.
    """
    query = dict(request.query_params)
    headers = {
        name.removeprefix(_PREFIX).replace("-", "_"): value
        for name, value in request.headers.items()
        if name.startswith(_PREFIX)
    }
    try:
        return ScoreQuery.model_validate(headers | query)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {**entry, "loc": ("query" if entry["loc"][0] in query else "header", *entry["loc"])}
                for entry in error.errors()
            ]
        ) from error


def _described() -> list[JsonObject]:
    parameters = []
    for name, schema in ScoreQuery.model_json_schema()["properties"].items():
        if schema["default"] is None:
            del schema["default"]
        parameter = {"name": name, "in": "query", "required": False, "schema": schema}
        parameters.append(parameter | {"description": schema["description"]})
    return parameters


# The same for the OpenAPI document.
SCORE_PARAMETERS = _described()


def invalid(place: str, error: ValidationError) -> RequestValidationError:
    """Say where in a request something is wrong."""
    return RequestValidationError(
        [{**entry, "loc": (place, *entry["loc"])} for entry in error.errors()]
    )
