"""Public vision transformers as encoders and classifiers, the official fine-tuned layout first.

Encoders without a decoder (`mae_pretrain_vit_*.pth`) start a fine-tuning. Checkpoints with a head
become classifiers as they are: the official one (`fc_norm` and `head` with average pooling, `norm`
and `head` with the class token; timm's names are the same) and transformers'
`ViTForImageClassification` (`vit.*`, `classifier.*`; the class token). What they say of their
input, ImageNet's mean and deviation, is taken for granted.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from supervised.bundle import SupervisedBundle
from supervised.encoder import Encoder
from supervised.tasks import SupervisedConfig, build_network
from training.errors import WeightsError
from training.pretrained import (
    MaeChoices,
    State,
    as_ours,
    encoder_config,
    read_state,
    rename_encoder,
    standardise,
)

UNSAID = MaeChoices()
_HEAD = re.compile(r"^(?:module\.)?(?:(fc_norm)|head|classifier)\.(weight|bias)$")
_UNUSED = re.compile(r"^(?:module\.)?(?:vit\.pooler\.|decoder|mask_token)")


def read_encoder(path: Path, choices: MaeChoices = UNSAID) -> Encoder:
    """Read the encoder of a public checkpoint, whatever stands on it; raises `WeightsError`."""
    state, choices, _ = _read(path, choices)
    encoder_state, _ = _parts(state)
    return _encoder(encoder_state, choices, has_norm="norm.weight" in encoder_state)


def has_head(path: Path) -> bool:
    """Whether a checkpoint is one of a classifier; raises `WeightsError` where it is damaged.

    One that is not there is none: whoever reads it says so.
    """
    if not path.exists():
        return False
    state, _, _ = _read(path, MaeChoices())
    return any(_HEAD.match(name) for name in state)


def import_classifier(path: Path, choices: MaeChoices = UNSAID) -> SupervisedBundle:
    """Read a fine-tuned classifier, a file or a folder of transformers; raises `WeightsError`.

    A transformers folder names its classes; of others they are `0`, `1`, ….
    """
    state, choices, names = _read(path, choices)
    encoder_state, head = _parts(state)
    if "head.weight" not in head or "head.bias" not in head:
        raise WeightsError(f"{path} holds no classification head; wanted head.* or classifier.*")
    count = len(head["head.weight"])
    classes = names if len(names) == count else tuple(str(i) for i in range(count))
    average = "norm.weight" in head
    encoder = _encoder(encoder_state, choices, has_norm=not average)
    config = SupervisedConfig(
        "classification",
        classes,
        encoder.config,
        {"pooling": "average" if average else "token", "batch_norm": False},
    )
    network = build_network(config, encoder)
    try:
        missing, unexpected = network.load_state_dict(head, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"the head does not fit the encoder: {str(error)[:300]}") from error
    lacking = [name for name in missing if not name.startswith("encoder.")]
    if lacking or unexpected:
        raise WeightsError(f"the head lacks {', '.join([*lacking, *unexpected])}; wrong file?")
    card = {"imported": {"weights": path.name}}
    return SupervisedBundle(path.stem, config, network.eval(), card)


def _parts(state: Mapping[str, torch.Tensor]) -> tuple[State, State]:
    """Take apart the encoder's tensors, renamed, and the head's."""
    head: State = {}
    remaining: State = {}
    for name, value in state.items():
        if match_ := _HEAD.match(name):
            head[f"{'norm' if match_[1] else 'head'}.{match_[2]}"] = value
        elif not _UNUSED.match(name):
            remaining[name] = value
    return rename_encoder(remaining), head


def _encoder(state: State, choices: MaeChoices, *, has_norm: bool) -> Encoder:
    if not {"class_token", "position"} <= state.keys():
        raise WeightsError("the encoder lacks its class token or positions; wrong file?")
    config = encoder_config(state, choices)
    filled = as_ours(state)
    encoder = Encoder.empty(config)
    if not has_norm:  # averages have a norm of the head instead
        filled |= {f"norm.{name}": value for name, value in encoder.norm.state_dict().items()}
    standardise(encoder.target, config.target)
    target = {f"target.{name}": value for name, value in encoder.target.state_dict().items()}
    try:
        encoder.load_state_dict(filled | target)
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit together: {str(error)[:300]}") from error
    return encoder


def _read(path: Path, choices: MaeChoices) -> tuple[State, MaeChoices, tuple[str, ...]]:
    if not path.exists():
        raise WeightsError(f"{path} does not exist")
    if path.is_file():
        return read_state(path), choices, ()
    names = ("model.safetensors", "pytorch_model.bin")
    file = next((path / name for name in names if (path / name).is_file()), None)
    if file is None or not (path / "config.json").is_file():
        raise WeightsError(f"{path} lacks config.json, or one of {', '.join(names)}")
    try:
        hub: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
        _check_hub(hub)
        read = MaeChoices(
            heads=int(hub["num_attention_heads"]), norm_eps=float(hub["layer_norm_eps"])
        )
        labels = {int(index): str(label) for index, label in hub.get("id2label", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path / 'config.json'} is no ViT configuration: {error}") from error
    return read_state(file), read, tuple(labels[index] for index in sorted(labels))


def _check_hub(hub: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a configuration computes what ours cannot."""
    if hub.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act is {hub['hidden_act']!r}; only exact GELU is known here")
    if not hub.get("qkv_bias", True):
        raise ValueError("it has no qkv_bias")
    if int(hub["intermediate_size"]) != 4 * int(hub["hidden_size"]):
        raise ValueError("intermediate_size is not four times hidden_size")
