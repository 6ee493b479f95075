"""Imported weights give what transformers' code gives, on weights made on the spot."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from anomaly.masking import split_indices
from anomaly.model import AnomalyModel
from training.errors import WeightsError
from training.pretrained import IMAGENET_MEAN, IMAGENET_STD, MaeChoices, import_mae

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
}
SIZES = {  # width, heads, patch of ViT-B, L and H; layers: two tell as much as 24 or 32
    "base": (768, 12, 16, 12),
    "large": (1024, 16, 16, 2),
    "huge": (1280, 16, 14, 2),
}


def reference(seed: int = 0, **changes: object) -> ViTMAEForPreTraining:
    torch.manual_seed(seed)
    model = ViTMAEForPreTraining(ViTMAEConfig(**(SMALL | changes))).eval()
    for parameter in model.parameters():  # fresh biases are zero, which would hide a mix-up
        if parameter.requires_grad and parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def both(
    theirs: ViTMAEForPreTraining, ours: AnomalyModel
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Reconstructions of hidden patches and losses under one mask: theirs, ours, theirs, ours."""
    side = theirs.config.image_size
    length = ours.target.grid.length
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(2, 3, side, side, generator=generator)
    noise = torch.rand(2, length, generator=generator)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        wanted = theirs((pixels - mean) / std, noise=noise)
        masks = wanted.mask.bool()
        tokens = ours.target(pixels)
        visible, hidden = split_indices(masks)
        predicted = ours.mae(tokens, visible, hidden)
        true = ours.target.to_predict(tokens)
    index = hidden.unsqueeze(-1).expand(-1, -1, predicted.shape[2])
    loss = (predicted - true.gather(1, index)).square().mean()
    return wanted.logits.gather(1, index), predicted, float(wanted.loss), float(loss)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_a_transformers_folder_gives_the_same_reconstruction_and_loss(
    tmp_path: Path, norm_pix_loss: bool
) -> None:
    theirs = reference(norm_pix_loss=norm_pix_loss)
    theirs.save_pretrained(tmp_path)
    wanted, found, their_loss, our_loss = both(theirs, import_mae(tmp_path))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert our_loss == pytest.approx(their_loss, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", sorted(SIZES))
def test_the_published_sizes_fit(tmp_path: Path, size: str) -> None:
    width, heads, patch, depth = SIZES[size]
    theirs = reference(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=512,
        decoder_num_hidden_layers=8,
        decoder_num_attention_heads=16,
        decoder_intermediate_size=2048,
        image_size=112 if patch == 14 else 64,
        patch_size=patch,
    )
    # Heads follow from the published sizes here: the official layout does not say them.
    file = official(theirs, tmp_path / "weights.pth")
    wanted, found, their_loss, our_loss = both(theirs, import_mae(file))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert our_loss == pytest.approx(their_loss, abs=1e-5)


def official_names(model: ViTMAEForPreTraining) -> dict[str, torch.Tensor]:
    """Write transformers' weights in the official layout, by the shapes' own structure."""
    state = model.state_dict()
    vit = model.vit

    def block(layer: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
        own = dict(layer.state_dict())
        linear = {n.rpartition(".")[0] for n in own if own[n].ndim == 2}
        query, key, value, project, fc1, fc2 = sorted(linear, key=_order)
        out = {}
        for kind in ("weight", "bias"):
            out[f"{prefix}attn.qkv.{kind}"] = torch.cat(
                [own[f"{part}.{kind}"] for part in (query, key, value)]
            )
            for name, part in (("attn.proj", project), ("mlp.fc1", fc1), ("mlp.fc2", fc2)):
                out[f"{prefix}{name}.{kind}"] = own[f"{part}.{kind}"]
            out[f"{prefix}norm1.{kind}"] = own[f"layernorm_before.{kind}"]
            out[f"{prefix}norm2.{kind}"] = own[f"layernorm_after.{kind}"]
        return out

    named = {
        "cls_token": state["vit.embeddings.cls_token"],
        "pos_embed": state["vit.embeddings.position_embeddings"],
        "mask_token": state["decoder.mask_token"],
        "decoder_pos_embed": state["decoder.decoder_pos_embed"],
    }
    projection = vit.embeddings.patch_embeddings.projection
    modules = {
        "patch_embed.proj": projection,
        "norm": vit.layernorm,
        "decoder_embed": model.decoder.decoder_embed,
        "decoder_norm": model.decoder.decoder_norm,
        "decoder_pred": model.decoder.decoder_pred,
    }
    for name, module in modules.items():
        named |= {f"{name}.{kind}": value for kind, value in module.state_dict().items()}
    encoder = vit.layers if hasattr(vit, "layers") else vit.encoder.layer
    for index, layer in enumerate(encoder):
        named |= block(layer, f"blocks.{index}.")
    for index, layer in enumerate(model.decoder.decoder_layers):
        named |= block(layer, f"decoder_blocks.{index}.")
    return named


def _order(name: str) -> int:
    for place, words in enumerate(
        (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("attention", "o_proj"))
    ):
        if any(word in name.split(".") for word in words):
            return place
    return 4 if ("intermediate" in name or "up" in name or "fc1" in name) else 5


def official(model: ViTMAEForPreTraining, file: Path) -> Path:
    names = official_names(model)
    torch.save({"model": names, "args": argparse.Namespace(lr=1e-3), "epoch": 799}, file)
    return file


def test_the_official_layout_gives_the_same(tmp_path: Path) -> None:
    theirs = reference()
    file = official(theirs, tmp_path / "mae.pth")
    ours = import_mae(file, MaeChoices(heads=3, decoder_heads=2))
    wanted, found, _, _ = both(theirs, ours)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def without_decoder(folder: Path) -> None:
    state = {k: v for k, v in official_names(reference()).items() if "decoder" not in k}
    torch.save({"model": state}, folder / "w.pth")


def foreign(folder: Path) -> None:
    save_file({"conv1.weight": torch.zeros(1)}, folder / "w.safetensors")


def torn(folder: Path) -> None:
    (folder / "w.pth").write_bytes(b"PK\x03\x04 torn")


def half_a_key(folder: Path) -> None:
    reference().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["decoder_num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))


class Evil:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("code was run",)


def evil(folder: Path) -> None:
    torch.save({"model": Evil()}, folder / "w.pth")


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (without_decoder, "w.pth", "encoder only"),
        (foreign, "w.safetensors", "belongs to no masked autoencoder"),
        (torn, "w.pth", "cannot be read"),
        (half_a_key, "", "no ViTMAE configuration"),
        (evil, "w.pth", "cannot be read"),
        (lambda folder: None, "nothing.pth", "does not exist"),
        (lambda folder: None, "", r"lacks config\.json"),
    ],
)
def test_what_is_no_masked_autoencoder_is_refused_by_name(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write: Callable[[Path], None],
    name: str,
    message: str,
) -> None:
    write(tmp_path)
    with pytest.raises(WeightsError, match=message):
        import_mae(tmp_path / name if name else tmp_path)
    assert "code was run" not in capsys.readouterr().out


def test_an_imported_model_is_saved_and_calibrated_like_any_other(
    tmp_path: Path, tiny_data: Path
) -> None:
    from typer.testing import CliRunner

    from maskline import app

    reference().save_pretrained(tmp_path / "hf")
    run = CliRunner().invoke
    made = run(app, ["import-mae", str(tmp_path / "hf"), "--out", str(tmp_path / "model")])
    assert made.exit_code == 0, made.output
    normals = str(tiny_data / "validation/good")
    calibrated = run(app, ["calibrate", str(tmp_path / "model"), normals])
    assert calibrated.exit_code == 0, calibrated.output
    scored = run(app, ["score", str(tmp_path / "model"), f"{normals}/000.png", "--json"])
    assert json.loads(scored.output)["status"] == "ok"
