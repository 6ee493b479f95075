import json
import logging
import os
import threading

import pytest
from fastapi.testclient import TestClient

from service.logs import REQUEST_ID, JsonLines, LineWriter
from tests.conftest import normal_pixels, png

GOOD = png(normal_pixels(6000))


def test_a_request_id_is_echoed_or_made(client: TestClient) -> None:
    given = client.post("/score", content=GOOD, headers={"X-Request-ID": "line-3.part:7"})
    assert given.headers["x-request-id"] == "line-3.part:7"
    made = client.get("/health/live").headers["x-request-id"]
    assert len(made) == 32
    for bad in ("a b", "x" * 65, 'quote"', "naïve"):
        answer = client.get("/health/live", headers={"X-Request-ID": bad.encode()})
        assert len(answer.headers["x-request-id"]) == 32


def test_every_answer_has_the_security_headers_errors_too(client: TestClient) -> None:
    for answer in (
        client.get("/health/live"),
        client.post("/score", content=b"junk"),
        client.get("/nowhere"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


def test_a_header_that_a_route_set_stays(client: TestClient) -> None:
    headers = client.get("/ui/").headers
    assert headers.get_list("cache-control") == ["no-cache"]
    assert headers.get_list("referrer-policy") == ["same-origin"]
    assert headers.get_list("x-frame-options") == ["DENY"]


def test_no_other_origin_is_let_in(client: TestClient) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("/score", headers=asked)
    assert (answer.status_code, answer.json()["code"]) == (403, "host_foreign")
    assert "access-control-allow-origin" not in answer.headers


def test_requests_are_logged_without_query_or_body_and_health_is_quiet(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "service.access"):
        client.post("/score?part_id=secret-part", content=GOOD)
        client.get("/health/live")
        client.get("/metrics")
    [record] = [r for r in caplog.records if r.name == "service.access"]
    assert (record.method, record.path, record.status) == (  # type: ignore[attr-defined]
        "POST",
        "/score",
        200,
    )
    assert "secret-part" not in JsonLines().format(record)


def test_a_line_is_json_with_request_id_extras_and_exception() -> None:
    token = REQUEST_ID.set("r-1")
    record = logging.makeLogRecord({"msg": "score of %s", "args": ("a",), "levelname": "INFO"})
    record.seconds = 0.25
    try:
        raise ValueError("why\nnot")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    text = JsonLines().format(record)
    REQUEST_ID.reset(token)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "score of a"
    assert line["request_id"] == "r-1"
    assert line["seconds"] == 0.25
    assert "ValueError: why" in line["exception"]


def test_a_log_that_nobody_reads_blocks_nothing_and_says_what_it_lost() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, limit=10, last_s=0.1)

    def log(text: str) -> None:
        writer.handle(logging.makeLogRecord({"msg": text}))

    for number in range(200):  # of a kilobyte each; the pipe holds 64
        log(f"{number:03d}" + "." * 1021)
        if (
            number < 50
        ):  # as long as the pipe has room, the thread that writes keeps up on any machine
            writer.flush()
    writer.flush()  # gives up after a tenth of a second
    found = bytearray()

    def read() -> None:
        while b"read again" not in found:
            found.extend(os.read(reading, 65536))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        writer.flush()
    log("read again")
    reader.join(timeout=10)
    *kept, told, last = found.decode().splitlines()
    assert [line[:3] for line in kept] == [f"{number:03d}" for number in range(len(kept))]
    assert told == f"{200 - len(kept)} lines of this log are lost: nobody read it"
    assert last == "read again"


def test_answers_close_their_connection_while_draining(client: TestClient) -> None:
    assert "connection" not in client.get("/health/live").headers
    client.app.state.draining = True
    try:
        assert client.get("/health/live").headers["connection"] == "close"
    finally:
        client.app.state.draining = False
