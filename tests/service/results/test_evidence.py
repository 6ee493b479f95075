"""Images and evidence that are kept of results."""

import asyncio
import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from anomaly.bundle import Bundle, save_bundle
from record.keep import KeptImage, KeptStore
from service.errors import StartError
from service.evidence import StoredEvidence
from service.results.recording import Recording
from tests.conftest import jpeg, normal_pixels, planted, png
from tests.service.routes.test_results import results, served

GOOD = jpeg(normal_pixels(6003))
BAD = png(planted(normal_pixels(6001), 80, 40, 12))


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_folder, tmp_path, keep="all") as open_client:
        yield open_client


def flush(client: TestClient) -> Recording:
    recording: Recording = client.app.state.parts.inspector.recording  # type: ignore[attr-defined]
    assert recording._keeper is not None
    recording._keeper.flush()
    return recording


def test_an_image_comes_back_as_it_was_sent(client: TestClient) -> None:
    for sent, kind in ((GOOD, "image/jpeg"), (BAD, "image/png")):
        result = client.post("/score", content=sent).json()["result_id"]
        results(client, 1)
        flush(client)
        answer = client.get(f"/v1/results/{result}/image")
        assert answer.content == sent
        assert answer.headers["content-type"] == kind
    assert "maskline_kept_bytes" in client.get("/metrics").text


def test_a_stored_heatmap_shows_what_the_answer_showed(client: TestClient) -> None:
    answer = client.post("/score?heatmap=overlay", content=BAD).json()
    results(client, 1)
    flush(client)
    stored = client.get(f"/v1/results/{answer['result_id']}/heatmap")
    assert stored.headers["content-type"] == "image/jpeg"
    picture = np.asarray(Image.open(io.BytesIO(stored.content)), np.int16)
    plain = np.asarray(Image.open(io.BytesIO(BAD)), np.int16)
    assert picture.shape == plain.shape
    x, y = answer["regions"][0]["peak"]
    changed = np.abs(picture - plain).max(axis=2)
    assert changed[y, x] > 40  # tinted where the defect is
    assert np.median(changed) < 12  # and not elsewhere


def test_a_stored_heatmap_is_as_sharp_as_the_answer_s(sharp_bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(sharp_bundle, tmp_path / "models/sharp", "v1")
    with served(tmp_path / "models/sharp", tmp_path, keep="all") as client:
        answer = client.post("/score?heatmap=overlay", content=BAD).json()
        results(client, 1)
        recording = flush(client)
        stored = client.get(f"/v1/results/{answer['result_id']}/heatmap").content
        discussed = asyncio.run(recording.reader.find(answer["result_id"]))
        evidence = recording._evidence(discussed.result)
    sent = base64.b64decode(answer["heatmap"]["data"])
    shown, redrawn = (np.asarray(Image.open(io.BytesIO(b)), np.int16) for b in (sent, stored))
    assert np.abs(shown - redrawn).mean() < 1  # the stored map has half the digits
    assert evidence is not None
    assert evidence.detail is not None
    assert evidence.detail.shape == evidence.placement.canvas
    assert evidence.detail.max() > evidence.detail.min()
    again = StoredEvidence.of_arrays(evidence.arrays())
    np.testing.assert_array_equal(again.detail, evidence.detail)
    assert evidence.arrays()["detail"].nbytes < evidence.detail.nbytes


def test_a_tensor_is_kept_as_a_picture(client: TestClient) -> None:
    pixels = normal_pixels(6003)
    shape = [1, *pixels.shape]
    data = {"name": "image", "shape": shape, "datatype": "UINT8", "data": pixels.ravel().tolist()}
    assert client.post("/v2/models/tiny/infer", json={"inputs": [data]}).status_code == 200
    (row,) = results(client, 1)
    flush(client)
    back = client.get(f"/v1/results/{row['result_id']}/image").content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(back))), pixels)


def test_what_is_not_kept_is_said_to_be_so(tiny_folder: Path, tmp_path: Path) -> None:
    with served(tiny_folder, tmp_path, keep="anomalies") as client:
        good = client.post("/score", content=GOOD).json()
        bad = client.post("/score", content=BAD).json()
        rows = {row["result_id"]: row["kept"] for row in results(client, 2)}
        flush(client)
        assert good["verdict"] == "OK"
        assert rows == {good["result_id"]: False, bad["result_id"]: True}
        refused = client.get(f"/v1/results/{good['result_id']}/image")
        assert (refused.status_code, refused.json()["code"]) == (404, "nothing_kept")
        assert client.get(f"/v1/results/{bad['result_id']}/image").status_code == 200


def test_feedback_pins_what_it_is_about(client: TestClient, tmp_path: Path) -> None:
    bad = client.post("/score", content=BAD).json()["result_id"]
    good = client.post("/score", content=GOOD).json()["result_id"]
    results(client, 2)
    flush(client)
    for result, kind in ((bad, "confirmed_defect"), (good, "confirmed_good")):
        said = client.post(f"/v1/results/{result}/feedback", json={"kind": kind})
        assert said.status_code == 201
    names = {path.name for path in (tmp_path / "kept/cases").iterdir()}
    assert names == {f"{r}.{kind}" for r in (bad, good) for kind in ("image", "evidence")}
    assert client.get(f"/v1/results/{bad}/image").content == BAD


def test_feedback_waits_for_an_image_that_is_not_written_yet(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = KeptStore.put

    def slow(self: KeptStore, kept: KeptImage) -> bool:
        time.sleep(0.5)
        return put(self, kept)

    monkeypatch.setattr(KeptStore, "put", slow)
    bad = client.post("/score", content=BAD).json()["result_id"]
    results(client, 1)
    said = client.post(f"/v1/results/{bad}/feedback", json={"kind": "confirmed_defect"})
    assert said.status_code == 201
    assert (tmp_path / f"kept/cases/{bad}.image").read_bytes() == BAD


def test_a_full_disk_of_pictures_fails_no_inspection(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = flush(client)._keeper.store  # type: ignore[union-attr]

    def full(kept: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "put", full)
    result = client.post("/score", content=BAD).json()["result_id"]
    results(client, 1)
    flush(client)
    assert client.get(f"/v1/results/{result}/image").json()["code"] == "nothing_kept"
    assert "maskline_kept_lost_total 1.0" in client.get("/metrics").text


def test_an_address_that_cannot_be_used_stops_the_start(tiny_folder: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StartError, match="MASKLINE_KEEP_URL"):
        served(tiny_folder, tmp_path, keep_url="nowhere://x").__enter__()
    assert time.monotonic() - started < 20
