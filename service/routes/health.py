"""Liveness, readiness and metrics."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import NotReady
from service.inspection import Inspector
from service.parameters import inspector

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "live"}


@router.get("/health/ready")
async def ready(inspector: Annotated[Inspector, Depends(inspector)]) -> dict[str, str]:
    """Say that an image sent now would be inspected; 503 otherwise."""
    if not inspector.engine.is_ready:
        raise NotReady("the inference thread is not running; restart the service")
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def metrics(inspector: Annotated[Inspector, Depends(inspector)]) -> Response:
    """Prometheus metrics, in the text format."""
    text = generate_latest(inspector.metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
