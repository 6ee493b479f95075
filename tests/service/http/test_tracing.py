import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace as api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.app import create_app
from service.errors import StartError
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    api.set_tracer_provider(provider)  # once in a process
    return exporter


@pytest.fixture
def traced(tiny_folder: Path, spans: InMemorySpanExporter) -> Iterator[TestClient]:
    with TestClient(create_app(settings(tiny_folder, tracing=True))) as client:
        spans.clear()
        yield client


def test_a_request_is_a_span_and_its_stages_are_its_children(
    traced: TestClient, spans: InMemorySpanExporter
) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = traced.post(
        "/score", content=png(normal_pixels(6000)), headers={"traceparent": parent}
    )
    traced.get("/health/ready")
    found = spans.get_finished_spans()
    (request,) = [span for span in found if span.kind is api.SpanKind.SERVER]
    assert request.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    stages = [span for span in found if span is not request]
    assert [s.name for s in stages] == ["read", "decode", "queue", "inference", "encode"]
    for span, seconds in zip(stages, answer.json()["timings"].values(), strict=True):
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert span.start_time is not None
        assert span.end_time is not None
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(seconds, abs=1e-5)
    queue, inference = stages[2:4]
    assert queue.end_time is not None
    assert inference.start_time is not None
    assert abs(queue.end_time - inference.start_time) < 5e6


def test_without_opentelemetry_it_says_what_to_install(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.asgi", None)
    with pytest.raises(StartError, match="maskline\\[tracing\\]") as caught:
        create_app(settings(tiny_folder, tracing=True))
    assert caught.value.code == "tracing_missing"
