import pytest
import timm
import torch
from torch import nn

from anomaly.fused_backbone import folded
from anomaly.targets import TargetConfig, build_target, load_backbone, state_digest


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return load_backbone(TargetConfig()).eval()


@torch.inference_mode()
def test_a_folded_backbone_computes_the_same_without_normalisations(backbone: nn.Module) -> None:
    copy = folded(backbone)
    assert copy is not backbone
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    for plain, fast in zip(backbone(pixels), copy(pixels), strict=True):
        assert float((plain - fast).abs().max()) < 1e-5 * float(plain.abs().max())


@torch.inference_mode()
def test_a_residual_network_folds_as_well() -> None:
    backbone = timm.create_model("resnet18", features_only=True, feature_cls="getter").eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    copy = folded(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())


class Reversed(nn.Module):
    """Declares convolution and normalisation in one order and runs them in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        assert self.norm.running_mean is not None
        self.norm.running_mean.fill_(3.0)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(self.norm(pixels))]


def test_what_would_be_folded_wrongly_or_has_nothing_to_fold_is_left_alone() -> None:
    reversed_ = Reversed().eval()
    assert folded(reversed_) is reversed_
    plain = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert folded(plain) is plain


@torch.inference_mode()
def test_new_weights_are_folded_anew_and_what_is_stored_stays_published() -> None:
    target = build_target(TargetConfig(), 64)
    names, digest = set(target.state_dict()), state_digest(target.backbone)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    before = target.raw(pixels)
    assert set(target.state_dict()) == names
    assert state_digest(target.backbone) == digest
    changed = {name: value * 0.5 for name, value in target.state_dict().items()}
    target.load_state_dict(changed)
    after = target.raw(pixels)
    assert not torch.allclose(before, after)
    alone = build_target(TargetConfig(), 64)
    alone.load_state_dict(changed)
    assert torch.equal(alone.raw(pixels), after)
