"""Other protocols, asked by the real clients that speak them."""

import base64
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

from service.app import create_app
from service.http.api_keys import Role, add_key
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings

BAD_PIXELS = planted(normal_pixels(1), 60, 40, 12)
GOOD, BAD = png(normal_pixels(6000)), png(BAD_PIXELS)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the clients, not ours
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return path, add_key(path, "client", Role.SCORE)


@pytest.fixture(scope="module")
def address(tiny_folder: Path, key: tuple[Path, str]) -> Iterator[str]:
    """The app behind a real socket."""
    app = create_app(settings(tiny_folder, auth="keys", keys_file=key[0]))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def triton(address: str) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(address)
    yield client
    client.close()


def headers(key: tuple[Path, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {key[1]}"}


def test_triton_s_client_finds_server_and_model(triton: Any, key: tuple[Path, str]) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert triton.is_model_ready("tiny", headers=headers(key))
    assert not triton.is_model_ready("other", headers=headers(key))
    metadata = triton.get_model_metadata("tiny", headers=headers(key))
    assert metadata["inputs"][0]["name"] == "image"
    assert {output["name"] for output in metadata["outputs"]} >= {"pred_score", "anomaly_map"}


@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client_scores_encoded_images(
    triton: Any, key: tuple[Path, str], client: TestClient, binary: bool
) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput

    images = [GOOD, BAD] if binary else [base64.b64encode(one) for one in (GOOD, BAD)]
    tensor = InferInput("image", [2], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=np.object_), binary_data=binary)
    asked = [
        InferRequestedOutput(name, binary_data=binary)
        for name in ("pred_score", "is_anomalous", "anomaly_map")
    ]
    answer = triton.infer("tiny", [tensor], outputs=asked, request_id="r7", headers=headers(key))
    wanted = [client.post("/score", content=one).json() for one in (GOOD, BAD)]
    np.testing.assert_allclose(
        answer.as_numpy("pred_score"), [one["score"] for one in wanted], rtol=1e-5
    )
    assert answer.as_numpy("is_anomalous").tolist() == [one["is_anomalous"] for one in wanted]
    height, width = wanted[0]["heatmap"]["height"], wanted[0]["heatmap"]["width"]
    assert answer.as_numpy("anomaly_map").shape == (2, height, width)
    assert answer.get_response()["id"] == "r7"


def test_triton_s_client_scores_pixels_with_all_outputs(
    triton: Any, key: tuple[Path, str], client: TestClient
) -> None:
    from tritonclient.http import InferInput

    for pixels in (BAD_PIXELS, BAD_PIXELS[None]):
        tensor = InferInput("image", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        answer = triton.infer("tiny", [tensor], headers=headers(key))
        wanted = client.post("/score", content=BAD).json()
        assert answer.as_numpy("pred_score")[0] == pytest.approx(wanted["score"], rel=1e-5)
        assert answer.as_numpy("p_value")[0] == pytest.approx(wanted["p_value"])
        assert answer.as_numpy("threshold")[0] == pytest.approx(wanted["threshold"])


def test_triton_s_client_understands_our_errors(triton: Any, key: tuple[Path, str]) -> None:
    from tritonclient.http import InferInput
    from tritonclient.utils import InferenceServerException

    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"junk"], dtype=np.object_))
    with pytest.raises(InferenceServerException, match="not an image"):
        triton.infer("tiny", [tensor], headers=headers(key))
    with pytest.raises(InferenceServerException, match="no model is called"):
        triton.infer("other", [tensor], headers=headers(key))
    with pytest.raises(InferenceServerException, match="send an API key"):
        triton.infer("tiny", [tensor])
    with pytest.raises(InferenceServerException, match="serves version"):
        triton.infer("tiny", [tensor], model_version="7", headers=headers(key))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "inputs"),
        ([{"name": "picture", "shape": [1], "datatype": "BYTES", "data": ["aa"]}], "picture"),
        ([{"name": "image", "shape": [1], "datatype": "FP64", "data": [1.0]}], "datatype"),
        ([{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["AAAA"]}], "fill"),
        ([{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["?"]}], "base64"),
        ([{"name": "image", "shape": [1], "datatype": "BYTES", "data": [3]}], "base64"),
        ([{"name": "image", "shape": [0], "datatype": "BYTES", "data": []}], "0 images"),
        ([{"name": "image", "shape": [32, 32, 3], "datatype": "UINT8", "data": [1]}], "fill"),
        ([{"name": "image", "shape": [8, 8, 3], "datatype": "UINT8", "data": [1]}], "UINT8"),
        ([{"name": "image", "shape": [9**9, 9**9, 3], "datatype": "UINT8"}], "limit"),
        ([{"name": "image", "shape": [-1], "datatype": "BYTES"}], "shape"),
        ([{"name": "image", "shape": [1], "datatype": "BYTES"}], "fill"),
    ],
)
def test_a_tensor_that_is_no_image_is_refused(
    client: TestClient, inputs: list[dict[str, Any]], said: str
) -> None:
    answer = client.post("/v2/models/tiny/infer", json={"inputs": inputs})
    assert (answer.status_code, answer.json()["code"]) == (400, "tensor_invalid")
    assert said in answer.json()["error"]


@pytest.mark.parametrize("length", ["x", "-1", "99999999", "²"])
def test_a_wrong_header_length_is_refused(client: TestClient, length: str) -> None:
    body = b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES"}]}\x09\x00\x00\x00abc'
    for given in (length.encode(), b"60"):
        answer = client.post(
            "/v2/models/tiny/infer",
            content=body,
            headers={b"Inference-Header-Content-Length": given},  # type: ignore[arg-type]
        )
        assert answer.status_code == 400


def lookout(address: str, key_id: str) -> Any:
    boto3 = pytest.importorskip("boto3", "1.34")
    from botocore.config import Config

    return boto3.client(
        "lookoutvision",
        endpoint_url=f"http://{address}",
        region_name="eu-central-1",
        aws_access_key_id=key_id,
        aws_secret_access_key="anything",
        config=Config(retries={"max_attempts": 1}),
    )


def test_an_aws_client_of_lookout_for_vision_goes_on_working(
    address: str, key: tuple[Path, str], client: TestClient
) -> None:
    aws = lookout(address, key[1])
    for image in (GOOD, BAD):
        answer = aws.detect_anomalies(
            ProjectName="tiny", ModelVersion="1", Body=image, ContentType="image/png"
        )["DetectAnomalyResult"]
        wanted = client.post("/score", content=image).json()
        assert answer["Source"] == {"Type": "direct"}
        assert answer["IsAnomalous"] is wanted["is_anomalous"]
        p = wanted["p_value"]
        assert answer["Confidence"] == pytest.approx(1 - p if wanted["is_anomalous"] else p)
        shares = {a["Name"]: a["PixelAnomaly"]["TotalPercentageArea"] for a in answer["Anomalies"]}
        assert sum(shares.values()) == pytest.approx(1)
        mask = cv2.imdecode(np.frombuffer(answer["AnomalyMask"], np.uint8), cv2.IMREAD_COLOR)
        assert (mask != 255).any(axis=2).mean() == pytest.approx(shares.get("anomaly", 0))


def test_an_aws_client_gets_errors_of_its_own_kinds(address: str, key: tuple[Path, str]) -> None:
    pytest.importorskip("boto3")
    from botocore.exceptions import ClientError

    def code(key_id: str, project: str, body: bytes) -> str:
        with pytest.raises(ClientError) as caught:
            lookout(address, key_id).detect_anomalies(
                ProjectName=project, ModelVersion="1", Body=body, ContentType="image/png"
            )
        found: str = caught.value.response["Error"]["Code"]
        return found

    assert code("mk_wrong", "tiny", GOOD) == "AccessDeniedException"
    assert code(key[1], "other", GOOD) == "ResourceNotFoundException"
    assert code(key[1], "tiny", b"junk") == "ValidationException"
