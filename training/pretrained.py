"""Public masked-autoencoder weights into a model folder: `maskline import-mae`.

Two layouts hold the same network under different names: the official one (`blocks.0.attn.qkv`) and
that of transformers' `ViTMAEForPreTraining` (`vit.encoder.layer.0…query`). Both become our own
names, with sizes read from the tensors themselves. Files are read without running pickle's code.
"""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from anomaly.mae import MaeConfig
from anomaly.model import AnomalyModel, ModelConfig
from anomaly.preprocess import PreprocessConfig
from anomaly.scoring import ScoringConfig
from anomaly.targets import Target, TargetConfig
from supervised.encoder import EncoderConfig
from training.errors import WeightsError

State = dict[str, torch.Tensor]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# In order: prefixes and names of either layout, and ours. A name that matches nothing is an error.
_RENAMES = (
    (r"^(cls_token|vit\.embeddings\.cls_token)$", "class_token"),
    (r"^(pos_embed|vit\.embeddings\.position_embeddings)$", "position"),
    (r"^(patch_embed\.proj|vit\.embeddings\.patch_embeddings\.projection)\.", "embed."),
    (r"^(norm|vit\.layernorm)\.", "norm."),
    (r"^(blocks|vit\.encoder\.layer|vit\.layers)\.(\d+)\.", r"blocks.\2."),
    (r"^(mask_token|decoder\.mask_token)$", "decoder.mask_token"),
    (r"^(decoder_pos_embed|decoder\.decoder_pos_embed)$", "decoder.position"),
    (r"^(decoder_embed|decoder\.decoder_embed)\.", "decoder.embed."),
    (r"^(decoder_norm|decoder\.decoder_norm)\.", "decoder.norm."),
    (r"^(decoder_pred|decoder\.decoder_pred)\.", "decoder.predict."),
    (
        r"^(decoder_blocks|decoder\.decoder_layers|decoder\.decoder_encoder\.layer)\.(\d+)\.",
        r"decoder.blocks.\2.",
    ),
)
_INSIDE_BLOCK = (
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(attention\.output\.dense|attention\.o_proj)\.", ".attn.proj."),
    (r"\.(intermediate\.dense|mlp\.up_proj)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.down_proj)\.", ".mlp.fc2."),
)
_PART = re.compile(r"\.(?:attention\.)+(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)$")


@dataclass(frozen=True, slots=True)
class MaeChoices:
    """What the weights themselves do not say.

    `heads` and `decoder_heads` are 0 to follow the published sizes: 64 channels per head of ViT-B
    and L, 80 of ViT-H, and 32 in the decoder. `norm_patches` says that the network was trained to
    predict patches standardised by themselves (`norm_pix_loss`).
    """

    norm_patches: bool = False
    heads: int = 0
    decoder_heads: int = 0
    norm_eps: float = 1e-6


def import_mae(path: Path, choices: MaeChoices = MaeChoices()) -> AnomalyModel:
    """Build an uncalibrated model from a checkpoint file, or a folder of transformers' layout.

    A folder's `config.json` says heads, `norm_pix_loss` and the norm's epsilon; it wins over
    `choices`. Raises `WeightsError` naming what is missing.
    """
    file, choices = _locate(path, choices)
    state = rename(read_state(file))
    config = _config(state, choices)
    return _fill(config, state)


def rename(state: Mapping[str, torch.Tensor]) -> State:
    """Bring either layout to our names, the decoder's included."""
    renamed = rename_encoder(state)
    _require_decoder(renamed)
    return renamed


def rename_encoder(state: Mapping[str, torch.Tensor]) -> State:
    """Bring either layout to our names; query, key and value become one tensor."""
    renamed: State = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        own_name = _own_name(name.removeprefix("module."))
        if match_ := _PART.search(own_name):
            place = own_name[: match_.start()] + ".attn.qkv." + match_[2]
            parts.setdefault(place, {})[match_[1][0]] = value
        else:
            renamed[own_name] = value
    for place, three in parts.items():
        if set(three) != {"q", "k", "v"}:
            raise WeightsError(f"the weights lack query, key or value of {place!r}; wrong file?")
        renamed[place] = torch.cat([three[part] for part in "qkv"])
    if "embed.weight" not in renamed or "blocks.0.attn.qkv.weight" not in renamed:
        raise WeightsError("the weights lack the encoder of a masked autoencoder; wrong file?")
    return renamed


def _own_name(name: str) -> str:
    for pattern, replacement in _RENAMES:
        own_name, count = re.subn(pattern, replacement, name)
        if count:
            for inside, shorter in _INSIDE_BLOCK if "blocks." in own_name else ():
                own_name = re.sub(inside, shorter, own_name)
            return own_name
    raise WeightsError(
        f"{name!r} belongs to no masked autoencoder that is known here; wanted the official layout "
        "or transformers' ViTMAEForPreTraining"
    )


def _require_decoder(state: Mapping[str, torch.Tensor]) -> None:
    if "decoder.predict.weight" not in state:
        raise WeightsError(
            "these weights hold an encoder only, and without the decoder nothing can be predicted; "
            "take the checkpoint with the decoder (the official ones end in _full), use the "
            "encoder as a backbone: --set model.target.backbone=vit_base_patch16_224.mae, or give "
            "it labels: maskline finetune --init FILE"
        )


def _locate(path: Path, choices: MaeChoices) -> tuple[Path, MaeChoices]:
    if not path.is_dir():
        if not path.is_file():
            raise WeightsError(f"{path} does not exist")
        return path, choices
    names = ("model.safetensors", "pytorch_model.bin")
    file = next((path / name for name in names if (path / name).is_file()), None)
    if file is None or not (path / "config.json").is_file():
        raise WeightsError(f"{path} lacks config.json, or one of {', '.join(names)}")
    try:
        hub_config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return file, MaeChoices(
            norm_patches=bool(hub_config.get("norm_pix_loss", False)),
            heads=int(hub_config["num_attention_heads"]),
            decoder_heads=int(hub_config["decoder_num_attention_heads"]),
            norm_eps=float(hub_config["layer_norm_eps"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path / 'config.json'} is no ViTMAE configuration: {error}") from error


def read_state(file: Path) -> State:
    """Read a .safetensors file, or a .pth or .bin file whose pickle may hold tensors only."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # The official files keep their command line beside the weights, as a Namespace of plain
        # values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            stored: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        raise WeightsError(f"{file} cannot be read as weights: {error}") from error
    state = stored.get("model", stored) if isinstance(stored, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{file} holds no state dict; wanted names and tensors, or 'model'")
    return state


def _config(state: State, choices: MaeChoices) -> ModelConfig:
    decoder_width = len(state["decoder.embed.weight"])
    encoder = encoder_config(state, choices)
    mae = replace(
        encoder.mae,
        decoder_width=decoder_width,
        decoder_depth=_depth(state, r"^decoder\.blocks\.(\d+)\."),
        decoder_heads=choices.decoder_heads or decoder_width // 32,
    )
    return ModelConfig(
        preprocess=encoder.preprocess,
        target=encoder.target,
        mae=mae,
        scoring=ScoringConfig(families=("masked",)),
    )


def encoder_config(state: State, choices: MaeChoices) -> EncoderConfig:
    """Read an encoder's sizes from its renamed tensors."""
    width, _, patch, _ = state["embed.weight"].shape
    side = round((state["position"].shape[1] - 1) ** 0.5)
    return EncoderConfig(
        preprocess=PreprocessConfig(canvas=side * patch),
        target=TargetConfig(kind="pixels", patch=patch, norm_patches=choices.norm_patches),
        mae=MaeConfig(
            width=width,
            depth=_depth(state, r"^blocks\.(\d+)\."),
            heads=choices.heads or width // (80 if width == 1280 else 64),
            decoder="classic",
            decoder_width=width,
            decoder_heads=1,
            positions="sincos",
            class_token=True,
            norm_eps=choices.norm_eps,
            window=side,
        ),
    )


def _depth(state: State, pattern: str) -> int:
    return 1 + max(int(match_[1]) for name in state if (match_ := re.match(pattern, name)))


def _fill(config: ModelConfig, state: State) -> AnomalyModel:
    model = AnomalyModel.fresh(config)
    filled = as_ours(state)
    if state["decoder.position"][:, 0].abs().max() > 0:
        raise WeightsError("the decoder gives its class token a position; no known layout does")
    filled["decoder.position"] = state["decoder.position"][:, 1:]
    try:
        model.mae.load_state_dict(filled)
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit together: {str(error)[:300]}") from error
    standardise(model.target, config.target)
    return model.eval()


def as_ours(state: State) -> State:
    """Give renamed tensors of an encoder the form that ours have."""
    filled = dict(state)
    # The class token's own position joins it; patches become tokens ordered (row, column, channel).
    filled["class_token"] = state["class_token"] + state["position"][:, :1]
    filled["position"] = state["position"][:, 1:]
    filled["embed.weight"] = state["embed.weight"].permute(0, 2, 3, 1).flatten(1)
    return filled


def standardise(target: Target, config: TargetConfig) -> None:
    """Set the standardisation of pixels that all of these weights were trained with."""
    area = config.patch**2
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    target.fit(mean.repeat(area), std.repeat(area))
