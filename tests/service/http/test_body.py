"""Multipart bodies made to keep their reader busy are refused before they do."""

import time

import pytest
from fastapi.testclient import TestClient

HEADERS = {"content-type": "multipart/form-data; boundary=B"}
PART = b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx\r\n'
END = b"--B--\r\n"
WRONG: dict[str, bytes] = {
    "many headers": b"--B\r\n"
    + b"".join(b"a%d: b\r\n" % n for n in range(9000))
    + b"\r\nx\r\n"
    + END,
    "a long header": b"--B\r\nA: " + b"b" * 100_000 + b"\r\n\r\nx\r\n" + END,
    "many fields": PART % b"a" * 2000 + END,
    "many files": (PART % b"file").replace(b'"file"', b'"file"; filename="f"') * 1100 + END,
    "half boundaries": PART % b"a" + b"\r\n--" * 30_000 + END,
    "no end": PART % b"a",
}


@pytest.mark.parametrize("path", ["/score", "/v1/score/batch", "/v1/models/tiny:calibrate"])
@pytest.mark.parametrize("case", WRONG)
def test_a_body_of_nothing_but_work_is_refused(client: TestClient, path: str, case: str) -> None:
    started = time.perf_counter()
    answer = client.post(path, content=WRONG[case], headers=HEADERS)
    assert time.perf_counter() - started < 1
    assert (answer.status_code, answer.json()["code"]) == (400, "multipart_invalid")
