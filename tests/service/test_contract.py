"""The server against its own OpenAPI document: no 500, no status or shape that is not in it."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from service.app import create_app
from tests.service.conftest import settings as service_settings

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.slow
def test_the_document_is_kept(tiny_folder: Path) -> None:
    app = create_app(service_settings(tiny_folder, max_body_bytes=100_000))
    with TestClient(app):
        api = schemathesis.openapi.from_asgi("/openapi.json", app)
        # A stream has no end to compare: tests/service/routes/test_events.py.
        for operation in api.exclude(path="/v1/events").get_all_operations():
            _ask(operation.ok())


def _ask(operation: Any) -> None:
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        response = case.call()
        # 503 (a model that cannot be read) and 504 (a deadline) are honest answers; 500 never is.
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    ask()
