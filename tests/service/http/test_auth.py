import errno
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client import generate_latest

from service.app import create_app
from service.errors import StartError
from service.http.api_keys import (
    KeyRing,
    KeysError,
    Role,
    add_key,
    read_keys,
    revoke_key,
    rights_of,
)
from service.metrics import Metrics
from service.run import serve
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings

ROLES_DAMAGED = [
    json.dumps({"keys": [{"name": "a", **held, "sha256": "0" * 64, "created": "2026"}]})
    for held in ({"role": "king"}, {"roles": []}, {"roles": "view"}, {"roles": [3]}, {"role": None})
]
GOOD = png(normal_pixels(6000))


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def secrets(keys_file: Path) -> dict[str, str]:
    return {role.value: add_key(keys_file, f"my-{role.name}", role) for role in Role}


@pytest.fixture
def client(tiny_folder: Path, keys_file: Path, secrets: dict[str, str]) -> Iterator[TestClient]:
    app = create_app(settings(tiny_folder, auth="keys", keys_file=keys_file, metrics_open=False))
    with TestClient(app) as open_client:
        yield open_client


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("POST", "/score", "score"),
        ("POST", "/v1/score", "score"),
        ("GET", "/v1/models", "read"),
        ("GET", "/v1/models/tiny/drift", "read"),
        ("GET", "/metrics", "read"),
        ("GET", "/v2/models/tiny", "read"),
        ("GET", "/v1/session", "read"),
        ("DELETE", "/v1/session", "read"),
        ("GET", "/v1/results", "view"),
        ("GET", "/v1/results:export", "view"),
        ("GET", "/v1/results/x", "view"),
        ("GET", "/v1/results/x/image", "view"),
        ("GET", "/v1/results/x/heatmap", "view"),
        ("POST", "/v1/results/x/feedback", "review"),
        ("POST", "/v1/models/tiny:calibrate", "operate"),
        ("POST", "/v1/models/tiny:preview", "operate"),
        ("GET", "/v1/events?names=none", "view"),  # 422: a stream would not end
        ("POST", "/v1/models/tiny:load", "operate"),
        ("POST", "/v1/models/tiny:activate", "operate"),
        ("POST", "/v1/models/tiny:rollback", "operate"),
    ],
)
def test_every_route_asks_for_a_key_and_its_role(
    client: TestClient, secrets: dict[str, str], method: str, path: str, least: str
) -> None:
    def ask(headers: dict[str, str]) -> tuple[int, str]:
        answer = client.request(method, path, content=GOOD, headers=headers)
        is_problem = answer.headers["content-type"].startswith("application/problem")
        return answer.status_code, answer.json()["code"] if is_problem else ""

    assert ask({}) == (401, "key_missing")
    assert ask({"Authorization": "Basic dTpw"}) == (401, "key_missing")
    assert ask(bearer("mk_wrong")) == (401, "key_unknown")
    assert ask({"Authorization": b"Bearer \xff\x00"})[0] == 401  # type: ignore[dict-item]
    for role, secret in secrets.items():
        enough = Role(least) in rights_of(frozenset({Role(role)}))
        assert (ask(bearer(secret))[0] != 403) is enough
        assert (ask({"X-API-Key": secret})[0] != 403) is enough


def test_every_route_but_health_is_guarded(client: TestClient) -> None:
    """A route that is added without a key check fails here."""
    open_paths = {"/health/live", "/health/ready", "/v2", "/v2/health/live", "/v2/health/ready"}
    open_routes = {("get", path) for path in open_paths} | {("post", "/v1/session")}
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            filled = re.sub(r"{\w+}", "tiny", path)
            answer = client.request(method, filled, content=GOOD)
            assert (answer.status_code == 401) is ((method, path) not in open_routes), path


def test_a_refused_body_is_not_read(client: TestClient) -> None:
    answer = client.post("/score", content=b"x" * 1000, headers=bearer("mk_wrong"))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert 'maskline_rejected_total{reason="auth"}' in _metrics(client)
    assert 'stage="read"' not in _metrics(client)


def _metrics(client: TestClient) -> str:
    metrics: Metrics = client.app.state.parts.metrics
    return generate_latest(metrics.registry).decode()


def test_a_revoked_or_added_key_is_noticed_at_once(
    client: TestClient, keys_file: Path, secrets: dict[str, str]
) -> None:
    revoke_key(keys_file, "my-SCORE")
    assert client.get("/v1/models", headers=bearer(secrets["score"])).status_code == 401
    new = add_key(keys_file, "new", Role.SCORE)
    assert client.get("/v1/models", headers=bearer(new)).status_code == 200
    keys_file.write_text("{")
    assert client.get("/v1/models", headers=bearer(new)).status_code == 200


def test_secrets_are_neither_stored_nor_logged(
    client: TestClient,
    keys_file: Path,
    secrets: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        client.post("/score", content=GOOD, headers=bearer(secrets["score"]))
        client.post("/score", content=GOOD, headers=bearer("mk_guessed"))
    stored = keys_file.read_text()
    for secret in (*secrets.values(), "mk_guessed"):
        assert secret not in stored
        assert secret not in caplog.text
    logged = [r.__dict__.get("key") for r in caplog.records if r.name == "service.access"]
    assert "my-SCORE" in logged
    assert keys_file.stat().st_mode & 0o077 == 0


def test_names_are_unique_and_plain(keys_file: Path) -> None:
    add_key(keys_file, "a", Role.SCORE)
    with pytest.raises(KeysError, match="revoke it first"):
        add_key(keys_file, "a", Role.ADMIN)
    with pytest.raises(KeysError, match="use letters"):
        add_key(keys_file, "a\nb", Role.SCORE)
    with pytest.raises(KeysError, match="no key called"):
        revoke_key(keys_file, "b")
    assert [key.roles for key in read_keys(keys_file)] == [{Role.SCORE}]


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root gives files away")
def test_a_file_stays_the_services_when_root_adds_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "first", Role.SCORE)
    os.chown(path, 1000, 1000)

    add_key(path, "second", Role.SCORE)

    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1000, 1000, 0o600)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"keys": [{"name": "a"}]}', '{"keys": 3}', *ROLES_DAMAGED]
)
def test_a_damaged_file_is_a_clear_error(keys_file: Path, text: str) -> None:
    keys_file.write_text(text)
    with pytest.raises(KeysError, match="cannot be used") as caught:
        KeyRing(keys_file)
    assert caught.value.code == "keys_unusable"


def test_without_keys_it_does_not_start_and_says_how_to(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="maskline key add") as caught:
        serve(models_dir=tiny_folder, keys_file=tmp_path / "none.json", log_format="text")
    assert caught.value.code == "keys_missing"


def test_a_key_revoked_while_its_file_cannot_be_opened_is_out_afterwards(
    keys_file: Path, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = KeyRing(keys_file)
    read = Path.read_text

    def too_many_files(path: Path, **named: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    revoke_key(keys_file, "my-SCORE")
    monkeypatch.setattr(Path, "read_text", too_many_files)
    assert ring.find(secrets["score"]) is not None  # not known yet
    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr("service.http.api_keys._AGAIN_S", 0.0)
    assert ring.find(secrets["score"]) is None
    assert ring.find(secrets["admin"]) is not None


def test_a_change_within_a_tick_of_the_clock_is_noticed(
    keys_file: Path, secrets: dict[str, str]
) -> None:
    ring = KeyRing(keys_file)
    status = keys_file.stat()
    text = keys_file.read_text().replace("my-SCORE", "my-OTHER")
    [digest] = [key.sha256 for key in read_keys(keys_file) if key.name == "my-SCORE"]
    keys_file.write_text(text.replace(digest, "0" * len(digest)))  # as long as before
    os.utime(keys_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ring.find(secrets["score"]) is None


def test_a_file_that_was_removed_has_no_keys(keys_file: Path, secrets: dict[str, str]) -> None:
    ring = KeyRing(keys_file)
    keys_file.unlink()
    assert ring.find(secrets["admin"]) is None
    assert len(ring) == 0
