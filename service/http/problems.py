"""Domain errors to `application/problem+json` (RFC 9457): one table, applied at the app."""

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from anomaly.errors import (
    AnomalyError,
    CalibrationError,
    ImageError,
    ImageTooLarge,
    ModelError,
    ScoreNotFinite,
    UnsupportedFormat,
)
from record.result import JsonObject
from record.store import StoreError
from service.errors import (
    AuditUnwritable,
    BodyTooLarge,
    BodyTooSlow,
    BodyUnusable,
    BudgetSpent,
    Claimed,
    ClientGone,
    CrossOrigin,
    DatasetInUse,
    DatasetsFull,
    DatasetUnknown,
    DefectsWouldPass,
    FeedbackContradicts,
    FolderRefused,
    ForeignHost,
    IdempotencyMismatch,
    InferenceFailed,
    JobEnded,
    JobExists,
    JobNotResumable,
    JobsElsewhere,
    JobsFull,
    JobUnknown,
    KeyMissing,
    KeyUnknown,
    KindUncertain,
    KindUnknown,
    MaskInvalid,
    MaskMissing,
    ModelGone,
    ModelUnknown,
    MultipartInvalid,
    NoNormalsKept,
    NormalsMissing,
    NotForLabels,
    NothingKept,
    NothingPrevious,
    NothingRecorded,
    NothingStaged,
    NotReady,
    OverBudget,
    PeriodInvalid,
    PlaceRefused,
    ReasonMissing,
    RecipeUnknown,
    ReportBusy,
    ResultUnknown,
    ReviewerMissing,
    RoleInsufficient,
    ServiceError,
    SessionEnded,
    StorageFailed,
    TensorInvalid,
    TooManyClaims,
    TooManyLogins,
    TooManyStreams,
    VersionChanged,
    VersionWaits,
    ZoneUnknown,
)
from service.inference.batching import InferenceCrashed, TooMuchAtOnce
from service.inference.queue import BatcherClosed, DeadlineMissed, QueueFull
from service.metrics import Metrics
from service.workers import WorkTooSlow

PROBLEM = "application/problem+json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of error is answered; `reason` is its label in `maskline_rejected_total`."""

    status: int
    reason: str
    code: str | None = None  # the error's own where None


# The first class of an error's ancestry that stands here decides.
RULES: dict[type[Exception], Rule] = {
    ImageTooLarge: Rule(413, "too_many_pixels"),
    UnsupportedFormat: Rule(415, "bad_image"),
    ImageError: Rule(400, "bad_image"),
    CalibrationError: Rule(422, "bad_parameter"),
    BodyTooLarge: Rule(413, "too_large"),
    BodyUnusable: Rule(415, "bad_image"),
    MultipartInvalid: Rule(400, "bad_image"),
    KeyMissing: Rule(401, "auth"),
    KeyUnknown: Rule(401, "auth"),
    SessionEnded: Rule(401, "auth"),
    TooManyLogins: Rule(429, "auth"),
    CrossOrigin: Rule(403, "auth"),
    RoleInsufficient: Rule(403, "auth"),
    ForeignHost: Rule(403, "auth"),
    ModelUnknown: Rule(404, "no_model"),
    NotForLabels: Rule(422, "bad_parameter"),
    ResultUnknown: Rule(404, "bad_parameter"),
    NothingKept: Rule(404, "bad_parameter"),
    MaskInvalid: Rule(422, "bad_image"),
    MaskMissing: Rule(404, "bad_parameter"),
    ModelGone: Rule(409, "bad_parameter"),
    NoNormalsKept: Rule(404, "bad_parameter"),
    FeedbackContradicts: Rule(409, "bad_parameter"),
    Claimed: Rule(409, "bad_parameter"),
    ReviewerMissing: Rule(422, "bad_parameter"),
    TooManyClaims: Rule(429, "bad_parameter"),
    IdempotencyMismatch: Rule(409, "bad_parameter"),
    NothingRecorded: Rule(404, "bad_parameter"),
    StoreError: Rule(503, "store"),
    NotReady: Rule(503, "not_ready"),
    TooManyStreams: Rule(429, "too_many_streams"),
    TensorInvalid: Rule(400, "bad_image"),
    BodyTooSlow: Rule(408, "too_slow"),
    BudgetSpent: Rule(429, "memory"),
    OverBudget: Rule(413, "too_large"),
    WorkTooSlow: Rule(400, "bad_image", "image_too_slow"),
    InferenceFailed: Rule(500, "internal"),
    QueueFull: Rule(429, "queue_full", "queue_full"),
    DeadlineMissed: Rule(504, "deadline", "deadline_missed"),
    TooMuchAtOnce: Rule(503, "out_of_memory", "out_of_memory"),
    InferenceCrashed: Rule(503, "internal", "inference_crashed"),
    BatcherClosed: Rule(503, "draining", "draining"),
    AuditUnwritable: Rule(503, "store"),
    NothingStaged: Rule(409, "bad_parameter"),
    NothingPrevious: Rule(409, "bad_parameter"),
    VersionWaits: Rule(409, "bad_parameter"),
    DefectsWouldPass: Rule(409, "bad_parameter"),
    VersionChanged: Rule(409, "bad_parameter"),
    NormalsMissing: Rule(422, "bad_parameter"),
    ReasonMissing: Rule(422, "bad_parameter"),
    KindUnknown: Rule(404, "bad_parameter"),
    KindUncertain: Rule(409, "bad_parameter"),
    DatasetUnknown: Rule(404, "bad_parameter"),
    DatasetInUse: Rule(409, "bad_parameter"),
    DatasetsFull: Rule(507, "store"),
    StorageFailed: Rule(507, "store"),
    FolderRefused: Rule(403, "bad_parameter"),
    JobUnknown: Rule(404, "bad_parameter"),
    JobEnded: Rule(409, "bad_parameter"),
    JobNotResumable: Rule(409, "bad_parameter"),
    JobExists: Rule(409, "bad_parameter"),
    JobsElsewhere: Rule(409, "bad_parameter"),
    JobsFull: Rule(429, "queue_full"),
    RecipeUnknown: Rule(422, "bad_parameter"),
    PlaceRefused: Rule(503, "store"),
    PeriodInvalid: Rule(422, "bad_parameter"),
    ZoneUnknown: Rule(422, "bad_parameter"),
    ReportBusy: Rule(429, "store"),
    ModelError: Rule(503, "no_model"),
    ScoreNotFinite: Rule(500, "not_finite"),
    AnomalyError: Rule(500, "internal"),
}


def install(app: FastAPI, metrics: Metrics) -> None:
    """Register one handler each for the rules, validation, HTTP errors and the unexpected."""
    for kind, rule in RULES.items():
        app.add_exception_handler(kind, _handler(rule, metrics))
    app.add_exception_handler(ClientDisconnect, _gone(metrics))
    app.add_exception_handler(ClientGone, _gone(metrics))
    app.add_exception_handler(RequestValidationError, _invalid(metrics))
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def document(status: int, code: str, detail: str) -> JsonObject:
    """Build a problem document with a stable code."""
    kind = f"urn:maskline:error:{code}"
    return {"type": kind, "status": status, "code": code, "detail": detail}


def problems(*statuses: int) -> dict[int | str, JsonObject]:
    """Return these statuses as an OpenAPI document has them."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {PROBLEM: schema}}
        for status in statuses
    }


def problem(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Answer with a problem document."""
    content = document(status, code, detail)
    return JSONResponse(content, status_code=status, headers=headers, media_type=PROBLEM)


_AWS = {
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "InternalServerException",
    504: "InternalServerException",
}


def _answer(
    request: Request, status: int, code: str, *, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Answer with a problem document; other protocols find their own fields in it."""
    return _answer_at(request.url.path, status, code, detail=detail, headers=headers)


def _answer_at(
    path: str, status: int, code: str, *, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    content = document(status, code, detail)
    if path.startswith("/v2"):
        content["error"] = detail
    elif path.startswith("/2020-11-20/"):
        content["Message"] = detail
        headers = {**(headers or {}), "x-amzn-ErrorType": _AWS.get(status, "ValidationException")}
    return JSONResponse(content, status_code=status, headers=headers, media_type=PROBLEM)


def refusal(scope: Scope, error: ServiceError, metrics: Metrics) -> JSONResponse:
    """Answer a request whose body is not read; its connection cannot be used again."""
    rule = RULES[type(error)]
    metrics.rejected.labels(rule.reason).inc()
    headers = (_headers(rule.status, error) or {}) | (
        {"Connection": "close"} if _has_body(scope) else {}
    )
    return _answer_at(
        scope["path"], rule.status, code_of(error, rule), detail=str(error), headers=headers
    )


def _has_body(scope: Scope) -> bool:
    names = {b"content-length", b"transfer-encoding"}
    return any(name in names and value != b"0" for name, value in scope["headers"])


def code_of(error: BaseException, rule: Rule) -> str:
    """Return the stable code: the rule's, or the error's own."""
    return rule.code or str(getattr(error, "code", "internal"))


Handler = Callable[[Request, Exception], Awaitable[JSONResponse]]


def _handler(rule: Rule, metrics: Metrics) -> Handler:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        metrics.rejected.labels(rule.reason).inc()
        code = code_of(error, rule)
        headers = _headers(rule.status, error)
        return _answer(request, rule.status, code, detail=str(error), headers=headers)

    return handle


def rule_of(error: BaseException) -> Rule | None:
    """Return the rule of an error, None of one that nobody expected."""
    return next((RULES[kind] for kind in type(error).__mro__ if kind in RULES), None)


def explained(error: BaseException) -> tuple[str, str]:
    """Return an error's stable code and its sentence; of one that nobody expected, no detail."""
    rule = rule_of(error)
    if rule is None:
        return "internal", "an unexpected error; the server's log has the details"
    return code_of(error, rule), str(error)


def _headers(status: int, error: Exception) -> dict[str, str] | None:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    seconds = getattr(error, "retry_after_s", None)
    return None if seconds is None else retry_after(seconds)


def retry_after(seconds: float) -> dict[str, str]:
    """Say when to come back, in whole seconds, 1 at the least (RFC 9110, 10.2.3)."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _gone(metrics: Metrics) -> Handler:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        metrics.abandoned.labels(getattr(error, "stage", "read")).inc()
        return problem(400, "client_gone", "the client left")  # nobody reads this

    return handle


def _invalid(metrics: Metrics) -> Handler:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        metrics.rejected.labels("bad_parameter").inc()
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _answer(request, 422, "parameter_invalid", detail=f"{where}: {first['msg']}")

    return handle


_HTTP_CODES = {
    404: "route_not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "body_too_large",
}


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "http_error")
    headers = dict(error.headers) if error.headers else None
    return _answer(request, error.status_code, code, detail=str(error.detail), headers=headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error("unexpected error at %s", request.url.path, exc_info=error)
    return problem(500, "internal", "an unexpected error; the server's log has the details")
