"""One model on disk: a folder of safetensors and a manifest. No pickle anywhere.

    manifest.json            schema, name, version, configuration, calibration, card, SHA-256 of each file
    model.safetensors        target (the frozen backbone included), masked autoencoder, memory, repair head
    calibration.safetensors  normalisers, scores of the calibration images, region; cameras' own ones as well
    golden.safetensors       a few generated canvases and the scores they must give
    model.onnx               the scoring path for ONNX Runtime, where that was faster on a CPU

A folder is written beside its final place and exchanged with what is there, so that it is there whole or not
at all; files that are not the model's own stay (`anomaly.folders`).
The golden canvases are generated patterns: no image of the customer's leaves with the model.
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
from safetensors import SafetensorError
from safetensors.torch import load, save

from anomaly.calibration import Calibration
from anomaly.config import from_dict, to_dict
from anomaly.detector import Detector
from anomaly.device import Cores, choose_device
from anomaly.errors import (
    ConfigError,
    ModelCorrupt,
    ModelNotFound,
    ModelNotSaved,
    ModelSchemaUnknown,
    ModelUncalibrated,
    OutputRefused,
)
from anomaly.export import GRAPH_ERRORS, OnnxModel
from anomaly.folders import recover, recover_all, replace_folder
from anomaly.model import AnomalyModel, ModelConfig
from anomaly.staged import StagedModel
from anomaly.stored import calibration_from, tensors_of, values_of
from anomaly.targets import state_digest
from anomaly.types import Placement

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
_WEIGHTS, _CALIBRATION, _GOLDEN, _GRAPH = (
    "model.safetensors",
    "calibration.safetensors",
    "golden.safetensors",
    "model.onnx",
)
_GOLDEN_TOLERANCE = 1e-3  # relative; another CPU or a GPU sums in another order


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model as it lies on disk.

    `card` tells where it comes from: training data, recipe, steps, commit, metrics. `version` is
    set when the folder is written; `digest` is the manifest's SHA-256, so it covers every file, and `weights`
    that of the weights alone: versions that share it differ in their calibrations only. `graph`
    is the ONNX file, if there is one; it serves on a CPU. `cameras` are calibrations for the parts of some
    cameras or products, by label; `calibration` is for all others.
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

    def detector(
        self, device: str | torch.device = "cpu", *, staged: int = 0, cores: Cores | None = None
    ) -> Detector:
        """Return a detector on `device`; raises `ModelUncalibrated` without a calibration.

        On a GPU, batches of up to `staged` images are captured as graphs (`StagedModel`); 0 captures none.
        `cores` says how batches on a CPU share it; without it all of torch's threads serve each.
        """
        if self.calibration is None:
            raise ModelUncalibrated(
                f"model {self.name!r} has no calibration, so its scores have no threshold; run "
                "'maskline calibrate MODEL NORMALS' with held-out normal images"
            )
        chosen = choose_device(device) if isinstance(device, str) else device
        if chosen.type == "cuda" and staged:
            captured = StagedModel(self.model, chosen, staged)
            return Detector(self.model, self.calibration, chosen, captured, self.cameras)
        if self.graph is None or chosen.type != "cpu":
            return Detector(self.model, self.calibration, chosen, cameras=self.cameras)
        network = OnnxModel(self.model, self.graph, cores)
        return Detector(self.model, self.calibration, chosen, network, self.cameras)

    def calibrated(self, calibration: Calibration, camera: str | None = None) -> "Bundle":
        """Return the model with a calibration for one camera, or for all that have none of their own."""
        card = self.card | {"calibration": {"images": len(calibration.images.scores)}}
        if camera is None:
            return dataclasses.replace(self, calibration=calibration, card=card)
        cameras = {**self.cameras, camera: calibration}
        return dataclasses.replace(self, cameras=cameras, card=card)


def model_folders(folder: Path) -> list[Path]:
    """Return `folder` if it is a model, or those of its subfolders that are, by name.

    Hidden folders are left out: a process killed while saving leaves its half-written one behind. A model
    that it had moved away is brought back.
    """
    recover(folder.absolute())
    recover_all(folder)
    if (folder / MANIFEST).is_file():
        return [folder]
    found = (path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return sorted(path for path in found if not path.name.startswith("."))


def stored_version(folder: Path) -> str:
    """Return the version of the model in a folder without loading it.

    Raises `ModelNotFound`, `ModelSchemaUnknown` or `ModelCorrupt`.
    """
    return str(_read_manifest(folder)[1]["version"])


def new_version() -> str:
    """Return a version that sorts by time."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%fZ")


def save_bundle(bundle: Bundle, folder: Path, version: str) -> Bundle:
    """Write a model folder, replacing one that is there only when the new one is whole.

    Returns the bundle with its version and digest. Raises `OutputRefused` where something else than a model
    is there, or `ModelNotSaved`.
    """
    files = {_WEIGHTS: save(_state(bundle.model))}
    if bundle.calibration is not None:
        files[_CALIBRATION] = save(_tensors_of(bundle))
        files[_GOLDEN] = save(_golden(Detector(bundle.model, bundle.calibration)))
    if bundle.graph is not None:
        files[_GRAPH] = bundle.graph
    manifest = json.dumps(_manifest(bundle, version, files), indent=2).encode()
    files[MANIFEST] = manifest
    try:
        _write_whole(files, folder)
    except OSError as error:
        raise ModelNotSaved(
            f"could not write the model to {folder}: {error.strerror or error}; nothing was "
            "changed there. Free some space or choose another place and save again"
        ) from error
    return dataclasses.replace(
        bundle,
        version=version,
        digest=hashlib.sha256(manifest).hexdigest(),
        weights=hashlib.sha256(files[_WEIGHTS]).hexdigest(),
    )


def load_bundle(folder: Path, *, check_golden: bool = True, with_graph: bool = True) -> Bundle:
    """Read a model folder, checking schema, digests and golden scores; its graph may be left out.

    Raises `ModelNotFound`, `ModelSchemaUnknown` or `ModelCorrupt`.
    """
    raw, manifest = _read_manifest(folder)
    stored = {name: _read_checked(folder, name, sha) for name, sha in manifest["files"].items()}
    graph = stored.pop(_GRAPH, None)
    tensors = {name: _tensors(folder / name, data) for name, data in stored.items()}
    try:
        model = AnomalyModel.empty(from_dict(ModelConfig, manifest["config"]))
        model.load_state_dict(tensors[_WEIGHTS])
        calibration, cameras = _calibrations(manifest, tensors.get(_CALIBRATION))
    except (KeyError, TypeError, RuntimeError, ConfigError) as error:
        reason = textwrap.shorten(str(error), 200)  # torch lists every tensor
        raise ModelCorrupt(
            f"the model in {folder} does not fit its manifest or this version of Maskline: {reason}"
        ) from error
    bundle = Bundle(
        name=manifest["name"],
        model=model.eval(),
        calibration=calibration,
        card=manifest["card"],
        version=manifest["version"],
        digest=hashlib.sha256(raw).hexdigest(),
        graph=graph if with_graph else None,
        cameras=cameras,
        weights=manifest["files"][_WEIGHTS],
    )
    if check_golden and calibration is not None:
        try:
            check_golden_scores(bundle.detector(), tensors[_GOLDEN])
        except GRAPH_ERRORS as error:
            raise ModelCorrupt(
                f"ONNX Runtime cannot run {folder / _GRAPH} ({textwrap.shorten(str(error), 200)}); "
                f"make it anew with 'maskline export {folder}'"
            ) from error
    return bundle


def check_golden_scores(detector: Detector, golden: dict[str, torch.Tensor]) -> None:
    """Raise `ModelCorrupt` unless the stored canvases give their stored scores on this device."""
    found, wanted = _scores(detector, golden["canvases"]), golden["scores"]
    allowed = _GOLDEN_TOLERANCE * (1 + wanted.abs())
    if not bool(((found - wanted).abs() <= allowed).all()):
        raise ModelCorrupt(
            f"the model does not give its golden scores: wanted {wanted.tolist()}, found "
            f"{found.tolist()}; the libraries differ too much or the files were changed"
        )


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
        "cameras": {name: values_of(one) for name, one in bundle.cameras.items()},
        "card": bundle.card,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }


def _read_manifest(folder: Path) -> tuple[bytes, dict[str, Any]]:
    recover(folder.absolute())
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelNotFound(f"no model in {folder} (there is no {MANIFEST}); train one first")
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        schema = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path} is not a manifest: {error}") from error
    if schema != SCHEMA_VERSION:
        raise ModelSchemaUnknown(
            f"{path} has schema version {schema}, this version reads {SCHEMA_VERSION}; update "
            "Maskline or train the model again"
        )
    missing = {
        "name",
        "version",
        "config",
        "calibration",
        "cameras",
        "card",
        "files",
    } - manifest.keys()
    if missing:
        raise ModelCorrupt(f"{path} lacks {', '.join(sorted(missing))}")
    return raw, manifest


def _read_checked(folder: Path, name: str, sha256: str) -> bytes:
    path = folder / name
    if Path(name).name != name or not path.is_file():  # a manifest cannot reach outside its folder
        raise ModelCorrupt(f"the model in {folder} lacks {name}; copy the whole folder again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelCorrupt(f"{path} was changed or damaged (its SHA-256 differs); copy it again")
    return data


def _tensors(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    try:
        return load(data)
    except SafetensorError as error:
        raise ModelCorrupt(f"{path} cannot be read: {error}") from error


def _write_whole(files: dict[str, bytes], folder: Path) -> None:
    folder = model_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, data in files.items():
            with (staging / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        staging.chmod(0o755)
        replace_folder(staging, folder, _own_files(folder))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def model_place(folder: Path) -> Path:
    """Return where a model would be written, links followed.

    Raises `OutputRefused` unless nothing is there, an empty folder, or a model, which would be replaced.
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
    return place


def is_model(folder: Path) -> bool:
    """Whether a folder's manifest is one of ours, of any version, damaged files or not."""
    return _WEIGHTS in _own_files(folder)


def _own_files(folder: Path) -> set[str]:
    """Return the names of the files that a model's manifest lists, and its own; none without one of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = set(manifest["files"]) if "schema_version" in manifest else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    return files | {MANIFEST}


def _state(model: AnomalyModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _tensors_of(bundle: Bundle) -> dict[str, torch.Tensor]:
    """Tensors of all calibrations; a camera's by its number, because its label may be anything."""
    assert bundle.calibration is not None
    found = tensors_of(bundle.calibration)
    for number, one in enumerate(bundle.cameras.values()):
        # Cloned, because calibrations may share tensors and safetensors takes none twice.
        found |= {f"camera{number}.{k}": tensor.clone() for k, tensor in tensors_of(one).items()}
    return found


def _calibrations(
    manifest: dict[str, Any], tensors: dict[str, torch.Tensor] | None
) -> tuple[Calibration | None, dict[str, Calibration]]:
    if manifest["calibration"] is None or tensors is None:
        return None, {}
    cameras = {}
    for number, (name, values) in enumerate(manifest["cameras"].items()):
        prefix = f"camera{number}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        cameras[name] = calibration_from(values, own)
    return calibration_from(manifest["calibration"], tensors), cameras


def _golden(detector: Detector) -> dict[str, torch.Tensor]:
    side = detector.model.config.preprocess.canvas
    generator = torch.Generator().manual_seed(20)
    ramp = torch.linspace(0, 1, side).expand(3, side, side)
    noise = torch.rand(3, side, side, generator=generator)
    squares = ((torch.arange(side) // 16).view(-1, 1) + torch.arange(side) // 16) % 2
    canvases = torch.stack([ramp, 0.5 * ramp + 0.3 * noise, squares.expand(3, -1, -1) * 0.8])
    canvases = (canvases * 255).round().to(torch.uint8)
    return {"canvases": canvases, "scores": _scores(detector, canvases)}


def _scores(detector: Detector, canvases: torch.Tensor) -> torch.Tensor:
    side = canvases.shape[-1]
    whole = Placement((side, side), (side, side), (0, 0, side, side))
    detections = detector.detect_canvases(canvases.float() / 255, [whole] * len(canvases))
    return torch.tensor([detection.pred_score for detection in detections])
