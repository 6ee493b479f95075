"""A model folder that lies is `ModelCorrupt`, whatever its manifest says and its files hold."""

import copy
import hashlib
import json
import os
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from anomaly import bundle as bundle_module
from anomaly.bundle import Bundle, load_bundle, save_bundle, stored_version
from anomaly.errors import ModelCorrupt, ModelError
from anomaly.runtime import detector_of

Json = Any
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [0, -1, 1, 10**6, 10**9, 10**400, 1e308, 0.0, -0.5, "", "x", "../x", "\ud800"]
    )
    | st.floats(allow_nan=True)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def folder(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a camera's own calibration and a warning rate."""
    assert tiny_bundle.calibration is not None
    side = replace(tiny_bundle.calibration, warn_rate=0.4)
    path = tmp_path_factory.mktemp("lies") / "tiny"
    save_bundle(replace(tiny_bundle, cameras={"side": side}), path, "v1")
    return path


def manifest_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return values


def written(folder: Path, into: Path, manifest: Json) -> Path:
    """A copy of a folder with another manifest."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(folder, into)
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (into / "manifest.json").write_bytes(text)
    return into


def places(value: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in JSON; of long lists the first places."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2])
    found = []
    for key, one in items:
        found.append((*path, key))
        if isinstance(one, dict | list) and path[:1] != ("card",):
            found += places(one, (*path, key))
    return found


def refused_or_loaded(path: Path) -> None:
    started = time.monotonic()
    refusal = ""
    try:
        detector_of(load_bundle(path))
    except ModelError as error:
        refusal = str(error)
    assert len(refusal) < 600
    assert "\n" not in refusal
    assert time.monotonic() - started < 20


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_one_changed_value_loads_or_is_a_model_error(folder: Path, data: st.DataObject) -> None:
    manifest = copy.deepcopy(manifest_of(folder))
    *way, key = data.draw(st.sampled_from(places(manifest)))
    holder = manifest
    for step in way:
        holder = holder[step]
    if data.draw(st.booleans()):
        holder[key] = data.draw(JSON)
    else:
        del holder[key]
    refused_or_loaded(written(folder, folder.parent / "lie", manifest))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["model", "calibration", "golden"]), st.data())
def test_any_one_odd_tensor_loads_or_is_a_model_error(
    folder: Path, name: str, data: st.DataObject
) -> None:
    tensors = load_file(folder / f"{name}.safetensors")
    key = data.draw(st.sampled_from(sorted(tensors)))
    one = tensors[key]
    match data.draw(st.sampled_from(["value", "shape", "type", "gone", "empty"])):
        case "value" if one.is_floating_point():
            odd = data.draw(st.sampled_from([float("nan"), float("inf"), -1e38, 1e38, 0.0]))
            one.view(-1)[data.draw(st.integers(0, one.numel() - 1))] = odd
        case "shape":
            tensors[key] = one.unsqueeze(0).contiguous()
        case "type":
            tensors[key] = one.to(data.draw(st.sampled_from([torch.float16, torch.int64])))
        case "gone":
            del tensors[key]
        case "empty":
            tensors[key] = one.flatten()[:0]
    path = written(folder, folder.parent / "odd", manifest_of(folder))
    save_file(tensors, path / f"{name}.safetensors")
    resealed(path, f"{name}.safetensors")
    refused_or_loaded(path)


def resealed(path: Path, name: str) -> None:
    """Write the file's own digest into the manifest, as whoever changed it would."""
    manifest = manifest_of(path)
    manifest["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def set_in(*way: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one value: the way to it, then the value."""

    def change(manifest: dict[str, Any]) -> None:
        *path, key, value = way
        holder: Any = manifest
        for step in path:
            holder = holder[step]
        holder[key] = value

    return change


@pytest.mark.parametrize(
    "way",
    [
        ("version", "../../x"),
        ("version", ".hidden"),
        ("version", "a b"),
        ("version", "v" * 65),
        ("version", 7),
        ("name", [1]),
        ("name", ""),
        ("files", [1]),
        ("files", {}),
        ("cameras", []),
        ("card", None),
        ("calibration", 5),
        ("calibration", "weights", [[1, 2], [3]]),
        ("calibration", "weights", [1.0]),
        ("calibration", "false_alarm_rate", "x"),
        ("calibration", "false_alarm_rate", 0),
        ("calibration", "threshold", 1e9),
        ("calibration", "threshold", None),
        ("calibration", "map_threshold", -1.0),
        ("calibration", "groups", 4000),
        ("calibration", "normalisers", ["pickle"]),
        ("calibration", "reduction", "smoothing", 1e9),
        ("calibration", "map_smoothing", 1e9),
        ("calibration", "reduction", "top_share", -3.0),
        ("config", "preprocess", "canvas", 10**6),
        ("config", "preprocess", "canvas", 4096),
        ("config", "mae", "width", 10**9),
        ("config", "mae", "depth", 10**9),
        ("config", "mae", "heads", 0),
        ("config", "mae", "window", 0),
        ("config", "scoring", "memory_size", 10**12),
        ("config", "scoring", "masking", "repeats", 10**9),
        ("config", "target", "patch", 2),
        ("config", "target", "kind", "features"),
        ("cameras", "side", "threshold", 1e9),
        ("cameras", "\ud800", {}),
    ],
    ids=str,
)
def test_lies_of_each_kind_are_refused_without_memory(
    folder: Path, tmp_path: Path, way: tuple[Any, ...]
) -> None:
    manifest = manifest_of(folder)
    set_in(*way)(manifest)
    path = written(folder, tmp_path / "lie", manifest)
    tracemalloc.start()
    with pytest.raises(ModelCorrupt):
        load_bundle(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 200_000,
        b'{"schema_version": 3, "card": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
        b'{"schema_version": 3, "schema_version": 3}',
        b'{"schema_version": NaN}',
        b'{"schema_version": 1e999}',
        b"\xff\xfe{}",
        b"1" * 5000,
        b"null",
        b'{"schema_version": true}',
        b" " * (17 * 1024 * 1024),
    ],
    ids=lambda raw: raw[:24].decode("latin-1"),
)
def test_what_is_no_manifest_is_said_to_be_none(folder: Path, tmp_path: Path, raw: bytes) -> None:
    path = written(folder, tmp_path / "lie", raw)
    for read in (load_bundle, stored_version):
        with pytest.raises(ModelCorrupt):
            read(path)


@pytest.mark.parametrize("name", ["model", "calibration", "golden"])
def test_files_that_must_be_there_are(folder: Path, tmp_path: Path, name: str) -> None:
    manifest = manifest_of(folder)
    del manifest["files"][f"{name}.safetensors"]
    with pytest.raises(ModelCorrupt, match=name):
        load_bundle(written(folder, tmp_path / "lie", manifest), check_golden=False)


@pytest.mark.parametrize("kind", ["device", "file", "directory", "fifo", "dangling"])
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_what_is_no_regular_file_is_not_read(
    folder: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path = written(folder, tmp_path / "lie", manifest_of(folder))
    (path / name).rename(tmp_path / "aside")
    match kind:
        case "device":
            (path / name).symlink_to("/dev/zero")
        case "file":
            (path / name).symlink_to(tmp_path / "aside")
        case "directory":
            (path / name).mkdir()
        case "fifo":
            os.mkfifo(path / name)
        case "dangling":
            (path / name).symlink_to(tmp_path / "nothing")
    with pytest.raises(ModelCorrupt, match=r"link|regular|directory"):
        load_bundle(path)


def test_a_header_of_a_terabyte_is_refused(folder: Path, tmp_path: Path) -> None:
    path = written(folder, tmp_path / "lie", manifest_of(folder))
    (path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    resealed(path, "model.safetensors")
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        load_bundle(path)


def test_weights_that_are_not_finite_do_not_hide_behind_a_good_graph(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny"
    save_bundle(replace(tiny_bundle, graph=b"a graph"), path, "v1")
    # In the graph's place: the model as it was exported, whatever the weights became.
    monkeypatch.setattr(bundle_module, "OnnxModel", lambda model, *_: tiny_bundle.model)
    assert load_bundle(path).graph is not None
    weights = load_file(path / "model.safetensors")
    weights["mae.embed.weight"].view(-1)[0] = torch.nan
    save_file(weights, path / "model.safetensors")
    resealed(path, "model.safetensors")
    with pytest.raises(ModelCorrupt, match=r"mae\.embed\.weight .* not finite"):
        load_bundle(path)
    weights["mae.embed.weight"].view(-1)[0] = 30.0  # finite, and another model than the graph's
    save_file(weights, path / "model.safetensors")
    resealed(path, "model.safetensors")
    with pytest.raises(ModelCorrupt, match="golden scores"):
        load_bundle(path)
    assert load_bundle(path, check_golden=False).graph is not None


def test_a_camera_s_calibration_that_gives_no_finite_score_is_refused(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    assert tiny_bundle.calibration is not None
    (one, *others) = tiny_bundle.calibration.normalisers
    tiny = replace(
        one, spread=torch.full_like(one.spread, 1e-42)
    )  # positive, and its inverse is not
    side = replace(tiny_bundle.calibration, normalisers=(tiny, *others))
    save_bundle(replace(tiny_bundle, cameras={"side": side}), tmp_path / "tiny", "v1")
    with pytest.raises(ModelCorrupt, match="finite"):
        load_bundle(tmp_path / "tiny")
