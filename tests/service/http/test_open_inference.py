"""Parses Open Inference Protocol bodies: economically, in a thread, or refused with a reason."""

import base64
import json
import threading
import time
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.types import RgbImage
from service.errors import TensorInvalid
from service.http import open_inference_tensors
from service.http.open_inference import HEADER_LENGTH, InferIn, Limits, deadline_ms, read_request
from tests.conftest import normal_pixels, png

GOOD = png(normal_pixels(6000))
LIMITS = Limits(8, 10_000)
ROUTE = "/v2/models/tiny/infer"


def bytes_tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [1], "datatype": "BYTES"} | changes


def request(tensor: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"inputs": [tensor]} | more


def encoded(images: list[bytes]) -> list[str]:
    return [base64.b64encode(one).decode() for one in images]


def packed(images: list[bytes]) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in images)


def escaped_by(kind: str, text: str) -> str:
    """As writers of JSON escape base64."""
    match kind:
        case "php":
            return text.replace("/", "\\/")
        case ".net":
            return text.replace("+", "\\u002B")
        case "lower":
            return text.replace("+", "\\u002b").replace("/", "\\u002F")
    return text


IMAGES = st.lists(
    st.one_of(
        st.binary(min_size=0, max_size=40),
        st.integers(0, 2**32).map(lambda n: np.random.default_rng(n).bytes(3000 + n % 400_000)),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(IMAGES, st.sampled_from(["plain", "php", ".net", "lower"]), st.sampled_from([None, 0, 2]))
def test_images_come_out_as_they_went_in(
    images: list[bytes], kind: str, indent: int | None
) -> None:
    text = json.dumps(
        request(bytes_tensor(shape=[len(images)], data=encoded(images))), indent=indent
    )
    wanted, read = read_request(escaped_by(kind, text).encode(), None, LIMITS)
    assert read == images
    assert wanted.inputs[0].shape == [len(images)]
    head = json.dumps(request(bytes_tensor(shape=[1, len(images)]))).encode()
    _, read = read_request(head + packed(images), str(len(head)), LIMITS)
    assert read == images


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(16, 20), st.integers(16, 20), st.booleans(), st.booleans())
def test_pixels_come_out_as_they_went_in(n: int, h: int, w: int, flat: bool, one: bool) -> None:
    pixels = np.random.default_rng(h).integers(0, 256, (n, h, w, 3), dtype=np.uint8)
    pixels = pixels[0] if one else pixels
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}
    data = (pixels.ravel() if flat else pixels).tolist()
    _, read = read_request(json.dumps(request(tensor | {"data": data})).encode(), None, LIMITS)
    head = json.dumps(request(tensor)).encode()
    _, binary = read_request(head + pixels.tobytes(), str(len(head)), LIMITS)
    for images in (read, binary):
        assert all(isinstance(image, RgbImage) for image in images)
        np.testing.assert_array_equal(
            np.stack([image.pixels for image in images]), pixels.reshape(-1, h, w, 3)
        )


LONG = "A" * 5000
PIXELS = {"name": "image", "shape": [1, 16, 16, 3], "datatype": "UINT8"}
WRONG: dict[str, tuple[Any, str]] = {
    "shape beyond int64": (bytes_tensor(shape=[10**20], data=["AAAA"]), "images"),
    "product wraps to 1": (bytes_tensor(shape=[2**32, 2**32, 1], data=["AAAA"]), "images"),
    "product wraps to 1 in pixels": (PIXELS | {"shape": [2**62 + 1, 16, 16, 3]}, "images"),
    "negative": (bytes_tensor(shape=[-1], data=["AAAA"]), "shape"),
    "two negatives": (bytes_tensor(shape=[-1, -1], data=["AAAA"]), "shape"),
    "fraction": (bytes_tensor(shape=[1.5], data=["AAAA"]), "shape"),
    "many dimensions": (bytes_tensor(shape=[1] * 100_000, data=["AAAA"]), "shape"),
    "FP32": (bytes_tensor(datatype="FP32", data=[1]), "datatype"),
    "too few": (bytes_tensor(shape=[3], data=["AAAA"]), "fill"),
    "too many": (bytes_tensor(shape=[1], data=["AAAA"] * 5000), "fill"),
    "more than are read": (bytes_tensor(shape=[65], data=["AAAA"] * 65), "1 to 8"),
    "none": (bytes_tensor(shape=[0], data=[]), "0 images"),
    "no base64": (bytes_tensor(data=["*" * 5000]), "base64"),
    "base64 with a break": (bytes_tensor(data=["AAAA\\n" * 2000]), "base64"),
    "padding inside": (bytes_tensor(data=["A" * (2**18 - 4) + "AA==" + "AAAA"]), "base64"),
    "half a quantum": (bytes_tensor(data=["A" * 5001]), "base64"),
    "letters beyond ASCII": (bytes_tensor(data=["é" * 5000]), "base64"),
    "a number": (bytes_tensor(data=[7]), "base64"),
    "a list": (bytes_tensor(data=[["AAAA"]]), "base64"),
    "a mark of ours": (bytes_tensor(data=["\0" + "0"]), "text"),
    "a long text elsewhere": (bytes_tensor(data=["AAAA"], parameters={"x": LONG}), "text"),
    "a long name": (bytes_tensor(name=LONG, data=["AAAA"]), "input"),
    "UINT8 lying": (PIXELS | {"data": [1]}, "fill"),
    "UINT8 of 1e30": (PIXELS | {"shape": [10**30, 16, 16, 3], "data": [1]}, "images"),
    "UINT8 too large": (PIXELS | {"shape": [1, 10**6, 10**6, 3], "data": [1]}, "limit"),
    "UINT8 text": (PIXELS | {"data": ["5"] * 768}, "whole numbers"),
    "UINT8 long text": (PIXELS | {"data": [LONG]}, "numbers"),
    "UINT8 of 256": (PIXELS | {"data": [256] * 768}, "whole numbers"),
    "UINT8 of -1": (PIXELS | {"data": [-1] * 768}, "whole numbers"),
    "UINT8 of 1e40": (PIXELS | {"data": [10**40] * 768}, "whole numbers"),
    "UINT8 of fractions": (PIXELS | {"data": [0.5] * 768}, "whole numbers"),
    "UINT8 of truths": (PIXELS | {"data": [True] * 768}, "whole numbers"),
    "UINT8 of nothing": (PIXELS | {"data": [None] * 768}, "whole numbers"),
    "UINT8 uneven": (PIXELS | {"data": [[1, 2], [3]]}, "even list"),
    "many numbers": (PIXELS | {"data": [0] * 700_000}, "binary"),
    "two inputs": (None, "inputs"),
    "output unknown": (None, "outputs"),
    "output twice": (None, "more than once"),
    "outputs x 2000": (None, "outputs"),
    "nested": (None, "JSON"),
    "nested objects": (None, "JSON"),
    "many texts": (None, "texts"),
    "many quotes": (None, "quotes"),
    "blank": (None, "beside"),
    "not UTF-8": (None, "JSON"),
    "open text": (None, "JSON"),
}
_ONE = bytes_tensor(data=encoded([GOOD]))
WHOLE: dict[str, bytes] = {
    "two inputs": json.dumps({"inputs": [_ONE, _ONE]}).encode(),
    "output unknown": json.dumps(request(_ONE, outputs=[{"name": "x"}])).encode(),
    "output twice": json.dumps(request(_ONE, outputs=[{"name": "p_value"}] * 2)).encode(),
    "outputs x 2000": json.dumps(request(_ONE, outputs=[{"name": "p_value"}] * 2000)).encode(),
    "nested": b'{"inputs":' + b"[" * 100_000,
    "nested objects": b'{"inputs":' + b'{"a":' * 9_000,
    "many texts": b'{"inputs":[' + b'"",' * 100_000 + b'""]}',
    "many quotes": b'{"inputs":["' + b'\\"' * 100_000 + b'"]}',
    "blank": json.dumps(request(_ONE)).encode() + b" " * 2_100_000,
    "not UTF-8": b'{"inputs":"' + b"\xff" * 100 + b'"}',
    "open text": b'{"inputs":[{"name":"' + b"x" * 9000,
}


def body_of(case: str) -> bytes:
    return WHOLE[case] if case in WHOLE else json.dumps(request(WRONG[case][0])).encode()


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_request_is_refused_with_the_reason(client: TestClient, case: str) -> None:
    with pytest.raises(TensorInvalid, match=WRONG[case][1]) as caught:
        read_request(body_of(case), None, LIMITS)
    assert len(str(caught.value)) < 1000
    body = body_of(case)
    answer = client.post(ROUTE, content=body, headers={"content-type": "application/json"})
    if len(body) <= client.app.state.parts.inspector.settings.max_bulk_bytes:
        assert (answer.status_code, answer.json()["code"]) == (400, "tensor_invalid")


@pytest.mark.parametrize(
    "length",
    [
        "9" * 5000,
        "-1",
        "1e3",
        "",
        "0x10",
        "³",
        "99999999",
        "+2",
        " 2",
        "1_0",
        "18446744073709551618",
    ],
)
def test_a_header_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(TensorInvalid, match=HEADER_LENGTH):
        read_request(b'{"inputs":[]}', length, LIMITS)


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (b"\0" * 4 * 1_000_000, 1),
        (b"\0" * 4 * 1_000_000, 8),
        (packed([b"x"]), 2),
        (packed([b"x", b"y"]), 1),
        (packed([b"x"])[:-1], 1),
        ((2**32 - 1).to_bytes(4, "little"), 1),
        (b"\0\0", 1),
        (b"", 1),
    ],
)
def test_binary_elements_are_as_many_as_the_shape_says(raw: bytes, count: int) -> None:
    head = json.dumps(request(bytes_tensor(shape=[count]))).encode()
    started = time.perf_counter()
    with pytest.raises(TensorInvalid):
        read_request(head + raw, str(len(head)), LIMITS)
    assert time.perf_counter() - started < 0.2


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["inputs", "name", "shape", "data", "datatype", "outputs", "id", "x"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ),
    st.binary(max_size=30),
    st.none() | st.integers(-3, 60).map(str),
)
def test_any_json_is_read_or_refused(value: Any, raw: bytes, length: str | None) -> None:
    tensor = bytes_tensor() | (value if isinstance(value, dict) else {"data": value})
    for body in (json.dumps(value).encode(), json.dumps(request(tensor)).encode(), raw):
        try:
            wanted, images = read_request(body + raw, length, LIMITS)
        except TensorInvalid:
            continue
        assert isinstance(wanted, InferIn)
        assert 1 <= len(images) <= LIMITS.images


def test_memory_is_a_small_multiple_of_the_body() -> None:
    images = [np.random.default_rng(n).bytes(1_000_000) for n in range(8)]
    body = json.dumps(request(bytes_tensor(shape=[8], data=encoded(images)))).encode()
    tracemalloc.start()
    read_request(body, None, LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(body)


class Ticks:
    """The longest time that the interpreter kept another thread from running in a block."""

    def __enter__(self) -> "Ticks":
        self.worst_s, self._end = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._tick)
        self._thread.start()
        return self

    def _tick(self) -> None:
        last = time.perf_counter()
        while not self._end.wait(0.001):
            now = time.perf_counter()
            self.worst_s, last = max(self.worst_s, now - last), now

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def test_no_step_holds_up_the_interpreter_for_as_long_as_the_whole_takes() -> None:
    image = np.random.default_rng(0).bytes(24_000_000)
    [text] = encoded([image])
    body = json.dumps(request(bytes_tensor(data=[text]))).encode()
    started = time.perf_counter()
    base64.b64decode(text)
    in_one_s = time.perf_counter() - started
    best = min(_worst_tick(lambda: read_request(body, None, LIMITS)) for _ in range(3))
    assert best < max(0.05, in_one_s)


def _worst_tick(work: Callable[[], Any]) -> float:
    with Ticks() as ticks:
        work()
    return ticks.worst_s


class Threads:
    """Stands before a function and remembers which threads called it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.names: list[str] = []
        plain = getattr(module, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.names.append(threading.current_thread().name)
            return plain(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)


def test_bodies_and_answers_are_taken_apart_beside_the_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.routes import oip as route

    reading = Threads(monkeypatch, route, "read_request")
    writing = Threads(monkeypatch, route, "write_response")
    assert client.post(ROUTE, json=request(_ONE)).status_code == 200
    assert reading.names == writing.names == ["parse"]


def inspected(grid: np.ndarray, score: float) -> Any:
    detection = SimpleNamespace(
        patch_scores=grid, pred_score=score, p_value=0.5, threshold=2.0, is_anomalous=score > 2
    )
    bundle = SimpleNamespace(version="v1")
    return SimpleNamespace(detection=detection, model=SimpleNamespace(bundle=bundle))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 120), st.booleans(), st.none() | st.text(max_size=9))
def test_an_answer_written_in_pieces_is_the_json_of_the_whole(
    n: int, side: int, binary: bool, name: str | None
) -> None:
    generator = np.random.default_rng(side)
    grids = [generator.normal(0, 5, (side, side)).astype(np.float32) for _ in range(n)]
    found = [inspected(grid, float(grid.max())) for grid in grids]
    wanted = InferIn.model_validate(
        request(_ONE, id=name, parameters={"binary_data_output": binary})
    )
    body, headers = open_inference_tensors.write_response("tiny", wanted, found)
    head = body[: int(headers[HEADER_LENGTH])] if binary else body
    answer = json.loads(head)
    assert answer.get("id") == name
    assert (answer["model_name"], answer["model_version"]) == ("tiny", "v1")
    at, by_name = len(head), {}
    for output in answer["outputs"]:
        if binary:
            size = output["parameters"]["binary_data_size"]
            kind = {"FP32": "<f4", "BOOL": "?"}[output["datatype"]]
            values = np.frombuffer(body[at : at + size], kind)
            at += size
        else:
            values = np.array(output["data"])
        by_name[output["name"]] = values.reshape(output["shape"])
    np.testing.assert_array_equal(by_name["anomaly_map"].astype(np.float32), np.stack(grids))
    assert by_name["is_anomalous"].tolist() == [one.detection.is_anomalous for one in found]


@pytest.mark.parametrize(
    ("timeout", "wanted"),
    [(5000, 5.0), (0, None), (-1, None), (True, None), ("5", None), (10**30, 600_000.0)],
)
def test_a_timeout_is_a_deadline(timeout: Any, wanted: float | None) -> None:
    asked = InferIn.model_validate(request(_ONE, parameters={"timeout": timeout}))
    assert deadline_ms(asked) == wanted
