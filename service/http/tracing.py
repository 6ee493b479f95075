"""OpenTelemetry, for who asks for it: a span for each request, a child for each stage.

Needs the extra `tracing`; where spans go is OpenTelemetry's own environment
(`OTEL_EXPORTER_OTLP_ENDPOINT`). Off by default: it costs about half of what the server can do
around a small model.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.middleware import Middleware

from service.errors import StartError

_QUIET = "health,metrics"


@dataclass(frozen=True, slots=True)
class Tracing:
    """Spans: `middleware` gives each request one, `stage` adds a stage just ended as its child."""

    middleware: Middleware
    stage: Callable[[str, float, float], None]


def open_tracing() -> Tracing:
    """Start to trace; raises `StartError` (`tracing_missing`) without OpenTelemetry."""
    try:
        from opentelemetry import trace as api
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    except ImportError as error:
        raise StartError(
            "tracing_missing",
            "MASKLINE_TRACING needs OpenTelemetry; install it with pip install 'maskline[tracing]'",
        ) from error
    _provide()
    middleware = Middleware(
        OpenTelemetryMiddleware, excluded_urls=_QUIET, exclude_spans=["receive", "send"]
    )
    tracer = api.get_tracer("maskline")

    def stage(name: str, seconds: float, ended_s_ago: float) -> None:
        ended = time.time_ns() - round(1e9 * ended_s_ago)
        span = tracer.start_span(name, start_time=ended - round(1e9 * seconds))
        span.end(ended)

    return Tracing(middleware, stage)


def _provide() -> None:
    """Send spans by OTLP, unless the process was given a provider already."""
    from opentelemetry import trace as api
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if isinstance(api.get_tracer_provider(), TracerProvider):
        return
    attributes = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "maskline"}
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    api.set_tracer_provider(provider)
