import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from starlette.requests import Request

from service.app import create_app
from service.http.api_keys import Role, add_key, revoke_key
from service.http.auth import authenticate
from service.http.sessions import LIFE_S
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(6000))
OWN = {"Origin": "http://testserver"}
ALL = ["read", "view", "review", "score", "operate", "admin"]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def lead(keys_file: Path) -> str:
    return add_key(keys_file, "lead", Role.SCORE, Role.REVIEW)


@pytest.fixture
def client(tiny_folder: Path, keys_file: Path, lead: str) -> Iterator[TestClient]:
    app = create_app(settings(tiny_folder, auth="keys", keys_file=keys_file))
    with TestClient(app) as open_client:
        yield open_client


@pytest.fixture(scope="module")
def unlocked(tiny_folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(tiny_folder))) as open_client:
        yield open_client


def log_in(client: TestClient, key: str, **headers: str) -> Response:
    return client.post("/v1/session", json={"key": key}, headers=headers)


def code(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_cookie_stands_for_the_key(client: TestClient, lead: str) -> None:
    assert code(client.get("/v1/session")) == (401, "key_missing")
    answer = log_in(client, lead)
    said = {"name": "lead", "roles": ["read", "view", "review", "score"], "auth": True}
    assert (answer.status_code, answer.json()) == (200, said)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("maskline_session=")
    assert f"Max-Age={LIFE_S}" in cookie
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert attribute in cookie
    assert "Secure" not in cookie
    assert "Domain" not in cookie
    assert lead not in cookie
    assert answer.headers["cache-control"] == "no-store"
    assert client.get("/v1/session").json() == said
    assert client.get("/v1/models").status_code == 200
    assert code(client.get("/v1/results")) == (404, "nothing_recorded")  # nothing but that


def test_over_tls_the_cookie_is_sent_by_tls_alone(client: TestClient, lead: str) -> None:
    answer = client.post("https://testserver/v1/session", json={"key": lead})
    assert "; Secure" in answer.headers["set-cookie"]


def test_the_roles_of_the_key_hold_for_its_session(client: TestClient, lead: str) -> None:
    log_in(client, lead)
    answer = client.post("/v1/models/tiny:activate", headers=OWN)
    assert code(answer) == (403, "role_insufficient")
    text = "key 'lead' has the roles review, score; this needs operate"
    assert answer.json()["detail"] == text


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}, True),
        ({"Origin": "http://testserver"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),  # another port of the same machine
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "http://testserver:9000"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
    ],
)
def test_under_a_cookie_only_own_pages_change_something(
    client: TestClient, lead: str, headers: dict[str, str], is_let_in: bool
) -> None:
    log_in(client, lead)
    answer = client.post("/score", content=GOOD, headers=headers)
    if is_let_in:
        assert answer.status_code == 200
    else:
        assert code(answer) == (403, "cross_origin")
        assert code(client.delete("/v1/session", headers=headers)) == (403, "cross_origin")
    assert client.get("/v1/session", headers=headers).status_code == 200  # it changes nothing


def test_a_key_in_a_header_goes_before_a_cookie(
    client: TestClient, keys_file: Path, lead: str
) -> None:
    camera = {"X-API-Key": add_key(keys_file, "camera", Role.SCORE)}
    log_in(client, lead)
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/score", content=GOOD, headers=camera | foreign).status_code == 200
    assert client.get("/v1/session", headers=camera).json()["name"] == "camera"
    wrong = {"Authorization": "Bearer mk_wrong"}
    assert code(client.get("/v1/session", headers=wrong)) == (401, "key_unknown")


def test_logging_out_ends_the_session_wherever_its_cookie_is(client: TestClient, lead: str) -> None:
    log_in(client, lead)
    cookies = dict(client.cookies)
    answer = client.delete("/v1/session", headers=OWN)
    assert (answer.status_code, answer.content) == (204, b"")
    assert dict(client.cookies) == {}
    client.cookies.update(cookies)  # a copy of it
    assert code(client.get("/v1/session")) == (401, "session_ended")


def test_logging_in_anew_ends_the_session_before(client: TestClient, lead: str) -> None:
    log_in(client, lead)
    before = dict(client.cookies)
    log_in(client, lead)
    assert dict(client.cookies) != before
    client.cookies.clear()
    client.cookies.update(before)
    assert code(client.get("/v1/session")) == (401, "session_ended")


def test_a_session_ends_with_its_key(client: TestClient, keys_file: Path, lead: str) -> None:
    log_in(client, lead)
    revoke_key(keys_file, "lead")
    assert code(client.get("/v1/session")) == (401, "session_ended")
    assert code(client.post("/score", content=GOOD, headers=OWN)) == (401, "session_ended")


def test_a_restart_ends_all_sessions(
    client: TestClient, tiny_folder: Path, keys_file: Path, lead: str
) -> None:
    log_in(client, lead)
    app = create_app(settings(tiny_folder, auth="keys", keys_file=keys_file))
    with TestClient(app, cookies=dict(client.cookies)) as restarted:
        assert code(restarted.get("/v1/session")) == (401, "session_ended")
        assert log_in(restarted, lead).status_code == 200


@pytest.mark.parametrize("by", ["key", "cookie"])
def test_an_open_answer_can_ask_whether_it_is_still_allowed(
    client: TestClient, keys_file: Path, lead: str, by: str
) -> None:
    sessions = client.app.state.parts.sessions
    pair = (b"x-api-key", lead.encode())
    if by == "cookie":
        log_in(client, lead)
        pair = (b"cookie", f"maskline_session={client.cookies['maskline_session']}".encode())
    scope = {"type": "http", "method": "GET", "headers": [pair]}
    authenticate(scope, sessions, Role.VIEW)
    still_allowed = Request(scope).state.still_allowed
    assert still_allowed()
    text = keys_file.read_text()
    keys_file.write_text(text.replace("review", "read"))
    assert not still_allowed()
    keys_file.write_text(text)
    assert still_allowed()
    if by == "cookie":
        client.delete("/v1/session", headers=OWN)
    else:
        revoke_key(keys_file, "lead")
    assert not still_allowed()


def test_without_keys_there_is_nothing_to_log_in_to(unlocked: TestClient) -> None:
    said = {"name": None, "roles": ALL, "auth": False}
    assert unlocked.get("/v1/session").json() == said
    answer = log_in(unlocked, "mk_anything")
    assert answer.json() == said
    assert "set-cookie" not in answer.headers
    assert unlocked.delete("/v1/session").status_code == 204
    scope = {"type": "http", "method": "GET", "headers": []}
    authenticate(scope, None, Role.ADMIN)
    assert Request(scope).state.still_allowed()


def test_no_foreign_page_logs_its_reader_in(client: TestClient, lead: str) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = log_in(client, lead, **headers)
        assert code(answer) == (403, "cross_origin")
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"key": 3}',
        b'{"key": ""}',
        b'{"key": "mk_secret", "more": 1}',
        b'"mk_secret"',
        b'{"key": "' + b"mk_secret" * 100 + b'"}',
    ],
)
def test_a_login_that_is_none_is_a_clear_error(client: TestClient, body: bytes) -> None:
    kind = {"Content-Type": "application/json"}
    answer = client.post("/v1/session", content=body, headers=kind)
    assert code(answer) == (422, "parameter_invalid")
    assert "mk_secret" not in answer.text


def test_a_login_is_short(client: TestClient) -> None:
    answer = client.post("/v1/session", content=b" " * 5000)
    assert code(answer) == (413, "body_too_large")


def test_who_logs_in_is_logged_but_no_key(
    client: TestClient, lead: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        log_in(client, lead)
        session_id = client.cookies["maskline_session"]
        client.get("/v1/models")
        client.cookies.clear()
        log_in(client, "mk_guessed")
    right, listed, wrong = [r for r in caplog.records if r.name == "service.access"]
    assert (right.status, right.key) == (200, "lead")  # type: ignore[attr-defined]
    assert listed.key == "lead"  # type: ignore[attr-defined]
    assert (wrong.status, wrong.client) == (401, "testclient")  # type: ignore[attr-defined]
    for secret in (lead, session_id, "mk_guessed"):
        assert secret not in caplog.text
        assert not any(secret in repr(vars(record)) for record in caplog.records)


def test_who_guesses_is_slowed_down(client: TestClient, lead: str) -> None:
    for number in range(10):
        assert code(log_in(client, f"mk_{number}")) == (401, "key_unknown")
    answer = log_in(client, lead)
    assert code(answer) == (429, "too_many_logins")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert client.get("/v1/models", headers={"X-API-Key": lead}).status_code == 200


def test_right_keys_are_not_slowed_down(client: TestClient, lead: str) -> None:
    assert {log_in(client, lead).status_code for _ in range(15)} == {200}
