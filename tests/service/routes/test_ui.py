import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.http.api_keys import Role, add_key
from service.routes import ui
from tests.service.conftest import settings

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
PLAIN = {"Accept-Encoding": "identity"}


@pytest.fixture(scope="module")
def locked(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    keys_file = tmp_path_factory.mktemp("keys") / "keys.json"
    add_key(keys_file, "camera", Role.SCORE)
    app = create_app(settings(tiny_folder, auth="keys", keys_file=keys_file))
    with TestClient(app, follow_redirects=False) as open_client:
        yield open_client


@pytest.mark.parametrize("path", ["/", "/ui"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_address_leads_to_the_page(locked: TestClient, path: str, method: str) -> None:
    answer = locked.request(method, path)
    assert (answer.status_code, answer.headers["location"]) == (307, "/ui/")


def test_the_page_needs_no_key_and_has_its_headers(locked: TestClient) -> None:
    answer = locked.get("/ui/", headers=PLAIN)
    assert answer.status_code == 200
    assert answer.content == (ui.FOLDER / "index.html").read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == CSP
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers.get_list("cache-control") == ["no-cache"]
    assert "camera=()" in answer.headers["permissions-policy"]
    assert locked.get("/ui/index.html", headers=PLAIN).content == answer.content


def test_every_file_is_sent_as_it_is(locked: TestClient) -> None:
    files = [path for path in ui.FOLDER.rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        name = path.relative_to(ui.FOLDER).as_posix()
        answer = locked.get(f"/ui/{name}", headers=PLAIN)
        assert answer.status_code == 200, f"{name} is of no kind that the page serves"
        assert answer.content == path.read_bytes()
        assert answer.headers["etag"] == f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"'
        assert answer.headers["content-security-policy"] == CSP
    assert sum(path.stat().st_size for path in files) < 5_000_000  # they are held in memory


def test_what_the_start_page_names_is_there(locked: TestClient) -> None:
    html = locked.get("/ui/").text
    for name in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', html):
        assert locked.get(f"/ui/{name}").status_code == 200, name
    assert "<script>" not in html  # the policy would refuse it
    assert " style=" not in html


def test_a_page_that_did_not_change_is_not_sent_again(locked: TestClient) -> None:
    first = locked.get("/ui/app.js", headers=PLAIN)
    tag = {"If-None-Match": first.headers["etag"]}
    answer = locked.get("/ui/app.js", headers=PLAIN | tag)
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == first.headers["etag"]
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-security-policy"] == CSP
    of_before = {"If-None-Match": f'"{"0" * 64}"'}
    assert locked.get("/ui/app.js", headers=PLAIN | of_before).status_code == 200
    assert locked.head("/ui/app.js", headers=PLAIN).headers["etag"] == first.headers["etag"]


def test_who_takes_gzip_gets_it_under_a_tag_of_its_own(locked: TestClient) -> None:
    plain = locked.get("/ui/index.html", headers=PLAIN)
    with locked.stream("GET", "/ui/index.html", headers={"Accept-Encoding": "gzip"}) as packed:
        raw = b"".join(packed.iter_raw())
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content)
    assert packed.headers["etag"] != plain.headers["etag"]
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    tag = {"If-None-Match": packed.headers["etag"]}
    again = locked.get("/ui/index.html", headers={"Accept-Encoding": "gzip"} | tag)
    assert again.status_code == 304
    assert "content-encoding" not in again.headers
    assert locked.get("/ui/index.html", headers=PLAIN | tag).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/ui/nothing.js",
        "/ui/../pyproject.toml",
        "/ui/%2e%2e/app.py",
        "/ui/..%2fapp.py",
        "/ui/%2fetc/passwd",
        "/ui//etc/passwd",
        "/ui/i18n/",
        "/ui/app.js/",
        "/ui/app.js%00",
        "/ui/" + "x" * 5000,
    ],
)
def test_only_files_of_the_page_are_there(locked: TestClient, path: str) -> None:
    answer = locked.get(path)
    assert answer.status_code in {401, 404}  # 401: the client made another path of it
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_page_only_answers_reading(locked: TestClient) -> None:
    assert locked.post("/ui/app.js", content=b"x").status_code == 401
    assert locked.delete("/ui/").status_code == 401


def test_other_routes_stay_uncached_and_guarded(locked: TestClient) -> None:
    answer = locked.get("/v1/models")
    assert answer.status_code == 401
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert "content-security-policy" not in answer.headers


def test_without_keys_the_page_is_not_for_foreign_names(client: TestClient) -> None:
    assert client.get("/ui/").status_code == 200
    answer = client.get("/ui/", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "host_foreign")
