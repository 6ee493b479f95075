"""One model on disk: a folder of safetensors and a manifest. No pickle anywhere.

    manifest.json            schema, name, version, configuration, calibration, card,
                             SHA-256 of each file
    model.safetensors        target (with the frozen backbone), masked autoencoder, memory,
                             repair head
    calibration.safetensors  normalisers, scores of the calibration images, region;
                             also each camera's own
    golden.safetensors       a few generated canvases and the scores they must give
    model.onnx               the scoring path for ONNX Runtime, where that was faster on a CPU
    kinds.safetensors        labelled regions by which defects are named, where there are some

A folder is written beside its final place and then swapped in, so that it is there whole or not at
all. Files that are not part of the model stay (`anomaly.folders`). The golden canvases are
generated patterns: no customer image leaves with the model.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from anomaly.calibration import Calibration
from anomaly.calibration_file import tensors_of, values_of
from anomaly.checked import (
    calibrations_from,
    check_golden_form,
    corrupt_unless_sound,
    examples_from,
    model_from,
    read_tensors,
)
from anomaly.config import to_dict
from anomaly.detector import Detector
from anomaly.errors import (
    CalibrationError,
    ModelCorrupt,
    ModelNotSaved,
    ModelOfOtherKind,
    ModelUncalibrated,
    OutputRefused,
)
from anomaly.example_file import tensors_of_examples
from anomaly.folders import is_plain_name, recover, recover_all, replace_folder
from anomaly.golden import check_golden_scores, golden_tensors
from anomaly.kinds import Examples
from anomaly.manifest import (
    ANOMALY,
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    kind_of,
    read_files,
    read_manifest,
)
from anomaly.model import AnomalyModel
from anomaly.onnx_model import GRAPH_ERRORS, OnnxModel
from anomaly.targets import state_digest

_WEIGHTS, _CALIBRATION, _GOLDEN, _GRAPH, _KINDS = (
    "model.safetensors",
    "calibration.safetensors",
    "golden.safetensors",
    "model.onnx",
    "kinds.safetensors",
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model as it lies on disk.

    `card` tells where it comes from: training data, recipe, steps, commit, metrics. `version` is
    set when the folder is written; `digest` is the manifest's SHA-256, so it covers every file;
    `weights` is the SHA-256 of the weights alone. Versions with the same `weights` differ only in
    their calibrations. `graph` is the ONNX file, if there is one; it serves on a CPU. `cameras` are
    calibrations for the parts of some cameras or products, by label; `calibration` is for all
    others. `golden` are canvases and the scores that the calibration as it was read gives them.
    `examples` are labelled regions as these weights describe them.
    """

    name: str
    model: AnomalyModel
    calibration: Calibration | None
    card: dict[str, Any]
    version: str = ""
    digest: str = ""
    graph: bytes | None = None
    cameras: Mapping[str, Calibration] = field(default_factory=dict)
    weights: str = ""
    golden: Mapping[str, torch.Tensor] = field(default_factory=dict)
    examples: Examples | None = None

    def calibrated(self, calibration: Calibration, camera: str | None = None) -> "Bundle":
        """Return the model with a calibration for one camera, or for all without their own."""
        card = self.card | {"calibration": {"images": len(calibration.images.scores)}}
        if camera is None:
            return dataclasses.replace(self, calibration=calibration, card=card, golden={})
        cameras = {**self.cameras, camera: calibration}
        return dataclasses.replace(self, cameras=cameras, card=card)

    def calibration_of(self, camera: str | None) -> Calibration:
        """Return one camera's own calibration, or the one for all without their own.

        Raises `ModelUncalibrated`, or `CalibrationError` where a camera has none of its own: its
        name may be mistyped.
        """
        if self.calibration is None:
            raise ModelUncalibrated(
                f"model {self.name!r} has no calibration yet: 'maskline calibrate' gives it one"
            )
        if camera is None:
            return self.calibration
        if camera not in self.cameras:
            known_cameras = ", ".join(sorted(self.cameras)) or "none"
            raise CalibrationError(
                f"camera {camera!r} has no calibration of its own, the one for all judges its "
                f"parts; cameras with their own: {known_cameras}"
            )
        return self.cameras[camera]


def model_folders(folder: Path) -> list[Path]:
    """Return `folder` if it is a model, or those of its subfolders that are, by name.

    Hidden folders are left out: a process killed while saving leaves a half-written one behind. A
    model that it had moved away is restored. Models of labels are no part of it.
    """
    recover(folder.absolute())
    recover_all(folder)
    if (folder / MANIFEST).is_file():
        return [folder] if kind_of(folder) == ANOMALY else []
    folders = (path.parent for path in folder.glob(f"*/{MANIFEST}"))
    visible = (path for path in folders if not path.name.startswith("."))
    return sorted(path for path in visible if kind_of(path) == ANOMALY)


def stored_version(folder: Path) -> str:
    """Return the version of the model in a folder without loading it.

    Raises `ModelNotFound`, `ModelSchemaUnknown` or `ModelCorrupt`.
    """
    recover(folder.absolute())
    return read_manifest(folder).version


def new_version() -> str:
    """Return a version that sorts by time."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%fZ")


def save_bundle(bundle: Bundle, folder: Path, version: str) -> Bundle:
    """Write a model folder; an existing one is replaced only when the new one is whole.

    Returns the bundle with its version and digest. Raises `OutputRefused` if something other than a
    model is there, or `ModelNotSaved`.
    """
    files = {_WEIGHTS: save(_state(bundle.model))}
    if bundle.calibration is not None:
        files[_CALIBRATION] = save(_tensors_of(bundle))
        files[_GOLDEN] = save(golden_tensors(Detector(bundle.model, bundle.calibration)))
    if bundle.graph is not None:
        files[_GRAPH] = bundle.graph
    if bundle.examples is not None:
        files[_KINDS] = save(tensors_of_examples(bundle.examples))
    manifest = json.dumps(_manifest(bundle, version, files), indent=2).encode()
    files[MANIFEST] = manifest
    write_model(files, folder)
    return dataclasses.replace(
        bundle,
        version=version,
        digest=hashlib.sha256(manifest).hexdigest(),
        weights=hashlib.sha256(files[_WEIGHTS]).hexdigest(),
    )


def load_bundle(folder: Path, *, check_golden: bool = True, with_graph: bool = True) -> Bundle:
    """Read a model folder, checking schema, digests and golden scores; its graph may be left out.

    Raises `ModelNotFound`, `ModelSchemaUnknown`, `ModelOfOtherKind` or `ModelCorrupt`, whatever
    lies in the folder.
    """
    recover(folder.absolute())
    manifest = read_manifest(folder)
    if manifest.kind != ANOMALY:
        raise ModelOfOtherKind(
            f"the model in {folder} was made by 'maskline finetune' for {manifest.kind}; it finds "
            "no anomalies. Name a model that 'maskline train' made"
        )
    _check_complete(folder, manifest)
    stored = dict(read_files(folder, manifest))
    graph = stored.pop(_GRAPH, None)
    tensors = {name: read_tensors(folder / name, data) for name, data in stored.items()}
    stored.clear()
    values, calibration = manifest.calibration, None
    cameras: dict[str, Calibration] = {}
    with corrupt_unless_sound(folder):
        if values is not None:
            check_golden_form(tensors[_GOLDEN], manifest.config)
        model = model_from(manifest.config, tensors[_WEIGHTS])
        examples = examples_from(tensors.get(_KINDS), model)
        if values is not None:
            calibration_tensors = tensors[_CALIBRATION]
            calibration, cameras = calibrations_from(
                values, manifest.cameras, calibration_tensors, model
            )
    bundle = Bundle(
        name=manifest.name,
        model=model,
        calibration=calibration,
        card=manifest.card,
        version=manifest.version,
        digest=manifest.digest,
        graph=graph if with_graph else None,
        cameras=cameras,
        weights=manifest.files[_WEIGHTS],
        golden=tensors.get(_GOLDEN, {}),
        examples=examples,
    )
    if check_golden and calibration is not None:
        with corrupt_unless_sound(folder):
            detector = Detector(model, calibration, cameras=cameras)
            check_golden_scores(detector, tensors[_GOLDEN])
            if bundle.graph is not None:
                _check_graph(bundle.graph, detector, tensors[_GOLDEN], folder)
    return bundle


def _check_graph(
    graph: bytes, detector: Detector, golden: dict[str, torch.Tensor], folder: Path
) -> None:
    """Check the graph beside the model: which of them serves depends on the device.

    Raises `ModelCorrupt` or `ScoreNotFinite`.
    """
    model, calibration, cameras = detector.model, detector.calibration, detector.cameras
    try:
        network = OnnxModel(model, graph)
        check_golden_scores(Detector(model, calibration, network=network, cameras=cameras), golden)
    except GRAPH_ERRORS as error:
        raise ModelCorrupt(
            f"ONNX Runtime cannot run {folder / _GRAPH} ({textwrap.shorten(str(error), 200)}); "
            f"make it anew with 'maskline export {folder}'"
        ) from error


def _check_complete(folder: Path, manifest: Manifest) -> None:
    """Raise `ModelCorrupt` if the manifest names too few files for what it declares."""
    needed = {_WEIGHTS} if manifest.calibration is None else {_WEIGHTS, _CALIBRATION, _GOLDEN}
    if missing := needed - manifest.files.keys():
        raise ModelCorrupt(
            f"{folder / MANIFEST} lacks {', '.join(sorted(missing))}; copy the whole folder again"
        )
    if manifest.cameras and manifest.calibration is None:
        raise ModelCorrupt(f"{folder / MANIFEST} has cameras' calibrations and none for others")


def _manifest(bundle: Bundle, version: str, files: dict[str, bytes]) -> dict[str, Any]:
    model = bundle.model
    backbone = getattr(model.target, "backbone", None)
    described = None
    if backbone is not None:
        described = {"name": model.config.target.backbone, "sha256": state_digest(backbone)}
    return {
        "schema_version": SCHEMA_VERSION,
        "name": bundle.name,
        "version": version,
        "config": to_dict(model.config),
        "backbone": described,
        "calibration": None if bundle.calibration is None else values_of(bundle.calibration),
        "cameras": {name: values_of(calibration) for name, calibration in bundle.cameras.items()},
        "card": bundle.card,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }


def write_model(files: dict[str, bytes], folder: Path, kind: str = ANOMALY) -> None:
    """Put a model's files, its manifest among them, in the place of what lies there.

    Raises `OutputRefused`, or `ModelNotSaved`; the folder is then as it was.
    """
    try:
        _write_whole(files, model_place(folder, kind))
    except OSError as error:
        raise ModelNotSaved(
            f"could not write the model to {folder}: {error.strerror or error}; nothing was "
            "changed there. Free some space or choose another place and save again"
        ) from error


def _write_whole(files: dict[str, bytes], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, data in files.items():
            with (staging / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        staging.chmod(0o755)
        replace_folder(staging, folder, own_files(folder))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def model_place(folder: Path, kind: str = ANOMALY) -> Path:
    """Return where a model would be written, links followed.

    Raises `OutputRefused` unless the place is free, an empty folder, or a model, which would be
    replaced: one of anomalies by its like, one of labels by its like.
    """
    place = Path(os.path.realpath(folder))
    recover(place)
    if not os.path.lexists(place):
        return place
    if not place.is_dir():
        raise OutputRefused(f"{folder} is a file, not a folder for a model; choose another place")
    if any(place.iterdir()) and not is_model(place):
        raise OutputRefused(
            f"{folder} holds something else than a model and stays as it is; choose a new folder"
        )
    if is_model(place) and (kind_of(place) == ANOMALY) != (kind == ANOMALY):
        raise OutputRefused(
            f"{folder} holds a model of another kind ({kind_of(place)}) and stays as it is; choose "
            "a new folder"
        )
    return place


def is_model(folder: Path) -> bool:
    """Whether a folder's manifest is one of ours, of any version, damaged files or not."""
    return _WEIGHTS in own_files(folder)


def own_files(folder: Path) -> set[str]:
    """Return the file names that a manifest lists, and its own; none without a manifest of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = set(manifest["files"]) if "schema_version" in manifest else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()  # not ours
    return {name for name in files if is_plain_name(name)} | {MANIFEST}


def _state(model: AnomalyModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _tensors_of(bundle: Bundle) -> dict[str, torch.Tensor]:
    """Tensors of all calibrations; a camera's are numbered, because its label may be anything."""
    assert bundle.calibration is not None
    tensors = tensors_of(bundle.calibration)
    for number, calibration in enumerate(bundle.cameras.values()):
        # Cloned: calibrations may share tensors, and safetensors refuses shared ones.
        tensors |= {
            f"camera{number}.{k}": tensor.clone() for k, tensor in tensors_of(calibration).items()
        }
    return tensors
