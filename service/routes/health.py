"""Liveness, readiness and metrics."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.http.api_keys import Role
from service.http.auth import asks
from service.http.problems import problems
from service.metrics import Metrics
from service.state import instruments, why_not_ready

router = APIRouter(tags=["health"])
# Asked without a key; /metrics as well unless the settings say otherwise.
OPEN = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/v2"})


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "live"}


NOT_READY = problems(503)


@router.get("/health/ready", responses=NOT_READY)
async def ready(request: Request) -> dict[str, str]:
    """Say that an image sent now would be inspected; 503 otherwise."""
    if (reason := why_not_ready(request.app.state)) is not None:
        raise reason
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
@asks(Role.READ)
async def metrics(metrics: Annotated[Metrics, Depends(instruments)]) -> Response:
    """Prometheus metrics in text format; without a key unless MASKLINE_METRICS_OPEN is false."""
    text = generate_latest(metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
