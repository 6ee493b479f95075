"""A model of labels on disk: a folder of safetensors and a manifest of its own kind. No pickle.

    manifest.json       schema, kind (the task), name, version, configuration with its classes,
                        card, SHA-256 of each file
    model.safetensors   the encoder, with the frozen backbone where there is one, and the head
    model.onnx          the same network for ONNX Runtime, where somebody exported it

It is written and read by the same rules as a model of anomalies (`anomaly.bundle`): there whole or
not at all, and nothing in it is believed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from anomaly.bundle import write_model
from anomaly.checked import check_layout, corrupt_unless_sound, read_tensors
from anomaly.config import from_dict, to_dict
from anomaly.errors import ModelCorrupt, ModelOfOtherKind
from anomaly.folders import recover, recover_all
from anomaly.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    kind_of,
    read_files,
    read_manifest,
)
from supervised.network import SupervisedNetwork
from supervised.tasks import TASKS, SupervisedConfig, build_network

_WEIGHTS, _GRAPH = "model.safetensors", "model.onnx"


@dataclass(frozen=True, slots=True)
class SupervisedBundle:
    """A model as it lies on disk; `version` and `digest` are set when it is written or read.

    `card` tells where it comes from: data, recipe, commit, figures on the test split. `graph` is
    the ONNX file, if there is one.
    """

    name: str
    config: SupervisedConfig
    network: SupervisedNetwork
    card: dict[str, Any]
    version: str = ""
    digest: str = ""
    graph: bytes | None = None


def is_supervised(folder: Path) -> bool:
    """Whether a folder's manifest is that of a model of labels, whatever the rest is like."""
    return kind_of(folder) in TASKS


def supervised_folders(folder: Path) -> list[Path]:
    """Return `folder` if it is a model of labels, or those of its subfolders that are, by name."""
    recover(folder.absolute())
    recover_all(folder)
    if is_supervised(folder):
        return [folder]
    below = (path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return sorted(p for p in below if not p.name.startswith(".") and is_supervised(p))


def save_supervised(bundle: SupervisedBundle, folder: Path, version: str) -> SupervisedBundle:
    """Write a model folder; an existing one is replaced only when the new one is whole.

    Returns the bundle with its version and digest. Raises `OutputRefused` or `ModelNotSaved`.
    """
    files = {_WEIGHTS: save(_state(bundle.network))}
    if bundle.graph is not None:
        files[_GRAPH] = bundle.graph
    manifest = json.dumps(_manifest(bundle, version, files), indent=2).encode()
    write_model(files | {MANIFEST: manifest}, folder, bundle.config.task)
    digest = hashlib.sha256(manifest).hexdigest()
    return dataclasses.replace(bundle, version=version, digest=digest)


def load_supervised(folder: Path) -> SupervisedBundle:
    """Read a model folder, checking schema, kind, digests and shapes.

    Raises `ModelNotFound`, `ModelSchemaUnknown`, `ModelOfOtherKind` or `ModelCorrupt`.
    """
    recover(folder.absolute())
    manifest = read_manifest(folder)
    _check_kind(folder, manifest)
    stored = dict(read_files(folder, manifest))
    graph = stored.pop(_GRAPH, None)
    weights = read_tensors(folder / _WEIGHTS, stored[_WEIGHTS])
    with corrupt_unless_sound(folder):
        config = from_dict(SupervisedConfig, manifest.config)
        if config.task != manifest.kind:
            raise ModelCorrupt(f"{folder / MANIFEST} names two kinds of model")
        network = _network(config, weights)
    return SupervisedBundle(
        manifest.name,
        config,
        network,
        manifest.card,
        manifest.version,
        manifest.digest,
        graph,
    )


def _check_kind(folder: Path, manifest: Manifest) -> None:
    if manifest.kind not in TASKS:
        raise ModelOfOtherKind(
            f"the model in {folder} is one of {manifest.kind}, not of labels; name a model that "
            "'maskline finetune' made"
        )
    if _WEIGHTS not in manifest.files:
        raise ModelCorrupt(f"{folder / MANIFEST} lacks {_WEIGHTS}; copy the whole folder again")


def _network(config: SupervisedConfig, weights: Mapping[str, torch.Tensor]) -> SupervisedNetwork:
    with torch.device("meta"):  # a folder never costs more than a small multiple of its files
        layout = build_network(config).state_dict()
    check_layout(layout, weights)
    network = build_network(config)
    network.load_state_dict(dict(weights))
    return network.eval()


def _manifest(bundle: SupervisedBundle, version: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": bundle.config.task,
        "name": bundle.name,
        "version": version,
        "config": to_dict(bundle.config),
        "calibration": None,
        "cameras": {},
        "card": bundle.card,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }


def _state(network: SupervisedNetwork) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
