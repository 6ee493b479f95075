"""Fine-tuned public layouts give the logits of the code that they come from, on drawn weights."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification

from supervised.bundle import SupervisedBundle, load_supervised
from tests.cli.conftest import invoke
from tests.training.test_pretrained import reference, without_decoder
from training.errors import WeightsError
from training.finetune.official import has_head, import_classifier, read_encoder
from training.pretrained import IMAGENET_MEAN, IMAGENET_STD, MaeChoices

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "image_size": 64,
    "patch_size": 16,
}


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """Weights unlike fresh ones, whose zeros and ones would hide a mix-up."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def transformers_model(**changes: object) -> ViTForImageClassification:
    torch.manual_seed(0)
    labels = {0: "good", 1: "crack", 2: "dent", 3: "scratch"}
    config = ViTConfig(**(SMALL | {"id2label": labels} | changes))
    model = drawn(ViTForImageClassification(config))
    assert isinstance(model, ViTForImageClassification)
    return model


def pictures(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Random canvases in [0, 1], and what public networks want of them."""
    pixels = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(3))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels, (pixels - mean) / std


def logits_of(bundle: SupervisedBundle, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = bundle.network(pixels)
        return logits


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-2])
def test_a_transformers_classifier_gives_the_same_logits(tmp_path: Path, eps: float) -> None:
    theirs = transformers_model(layer_norm_eps=eps)
    theirs.save_pretrained(tmp_path)
    ours = import_classifier(tmp_path)
    pixels, standardised = pictures()
    with torch.inference_mode():
        expected = theirs(standardised).logits
    torch.testing.assert_close(logits_of(ours, pixels), expected, atol=1e-5, rtol=0)
    assert ours.config.classes == ("good", "crack", "dent", "scratch")
    assert ours.config.head["pooling"] == "token"


@pytest.mark.parametrize("pooling", ["avg", "token"])
def test_the_official_fine_tuned_layout_gives_the_same_logits(tmp_path: Path, pooling: str) -> None:
    torch.manual_seed(0)
    theirs = drawn(
        timm.models.VisionTransformer(
            img_size=64, embed_dim=48, depth=3, num_heads=3, num_classes=5, global_pool=pooling
        )
    )
    names = set(theirs.state_dict())  # of the official code: model_vit.py of the fine-tuning
    assert ("fc_norm.weight" in names) == (pooling == "avg")
    assert ("norm.weight" in names) == (pooling == "token")
    torch.save({"model": theirs.state_dict(), "epoch": 99}, tmp_path / "mae_finetuned.pth")
    ours = import_classifier(tmp_path / "mae_finetuned.pth", MaeChoices(heads=3))
    pixels, standardised = pictures()
    with torch.inference_mode():
        expected = theirs(standardised)
    torch.testing.assert_close(logits_of(ours, pixels), expected, atol=1e-5, rtol=0)
    assert ours.config.classes == ("0", "1", "2", "3", "4")


def test_an_imported_classifier_is_a_model_folder(tmp_path: Path) -> None:
    transformers_model().save_pretrained(tmp_path / "hub")
    result = invoke("import-mae", tmp_path / "hub", "--out", tmp_path / "kinds")
    assert result.exit_code == 0, result.output
    read = load_supervised(tmp_path / "kinds")
    assert read.config.classes[3] == "scratch"
    pixels, _ = pictures()
    same = import_classifier(tmp_path / "hub")
    torch.testing.assert_close(logits_of(read, pixels), logits_of(same, pixels))


def test_an_encoder_alone_or_with_its_decoder_starts_a_fine_tuning(tmp_path: Path) -> None:
    without_decoder(tmp_path)
    reference().save_pretrained(tmp_path / "hub")
    alone = read_encoder(tmp_path / "w.pth", MaeChoices(heads=3, norm_eps=1e-12))
    beside = read_encoder(tmp_path / "hub")
    pixels, _ = pictures()
    with torch.inference_mode():
        torch.testing.assert_close(alone(pixels).tokens, beside(pixels).tokens)
    assert not has_head(tmp_path / "w.pth")


def test_another_resolution_keeps_the_weights_and_interpolates_positions(tmp_path: Path) -> None:
    transformers_model().save_pretrained(tmp_path)
    encoder = read_encoder(tmp_path).on(96)
    pixels, _ = pictures(96)
    assert encoder(pixels).tokens.shape == (3, 36, 48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "exact GELU"),
        ({"qkv_bias": False}, "no qkv_bias"),
        ({"intermediate_size": 96}, "not four times"),
    ],
)
def test_what_computes_something_else_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    transformers_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        import_classifier(tmp_path)


def test_weights_without_a_head_or_of_another_network_are_refused(tmp_path: Path) -> None:
    without_decoder(tmp_path)
    with pytest.raises(WeightsError, match="no classification head"):
        import_classifier(tmp_path / "w.pth")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="belongs to no masked autoencoder"):
        read_encoder(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="does not exist"):
        read_encoder(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"lacks config\.json"):
        read_encoder(tmp_path / "empty")
