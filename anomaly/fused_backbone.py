"""A faster frozen convolutional backbone: batch norm folded in, channels last in memory.

Neither changes a result beyond rounding (1e-6 of a feature's range). The weights that are stored
and digested stay as they were published; this is a copy to compute with.
"""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CHECKED_PX = 64
_CLOSE = 1e-3  # of the largest feature


@torch.inference_mode(mode=False)
@torch.no_grad()
def folded(backbone: nn.Module) -> nn.Module:
    """Return a copy to compute with, or the backbone itself where there is nothing to fold.

    A backbone whose layers run in another order than they are declared in would be folded wrongly:
    the copy is tried on noise, and not used if it differs.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()):
        return backbone
    first = next(backbone.parameters())
    if first.is_meta:
        return backbone
    copy = deepcopy(backbone)
    _fold(copy)
    copy = copy.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, _CHECKED_PX, _CHECKED_PX, generator=generator)
    noise = noise.to(first.device, first.dtype)
    pairs = zip(backbone(noise), copy(noise), strict=True)
    same = all(float((a - b).abs().max()) <= _CLOSE * float(a.abs().max()) for a, b in pairs)
    return copy if same else backbone


def _fold(module: nn.Module) -> None:
    """Fold each normalisation into the convolution that is declared right before it."""
    children = list(module.named_children())
    for (name, conv), (after, norm) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            # timm's normalisation has its activation inside.
            setattr(module, after, getattr(norm, "act", nn.Identity()))
    for _, child in module.named_children():
        _fold(child)
