"""The detail head: which pixels of a suspicious place are altered.

Evidence lies on cells of eight pixels and spreads to their neighbours. This small U-Net
(Ronneberger et al. 2015) sees the canvas itself beside the evidence, and learns on synthetic
corruption of normal images where exactly an alteration is (the segmenting discriminator of DRAEM,
Zavrtanik et al. 2021, which had pixels and their repair for input). It says where, never whether:
without evidence it takes too much of what is normal for altered (docs/LOG.md).
"""

import torch
import torch.nn.functional as F
from torch import nn

_MULTIPLE = 8  # the coarsest layer's pixels
_LOWEST, _HIGHEST = -5.0, 15.0  # of standardised evidence; a defect's own height says no more


class DetailHead(nn.Module):
    """Canvases (B, 3, H, W) in [0, 1] and evidence (B, E, rows, cols) to logits (B, H, W).

    `mean` and `spread` (E, 1, 1) standardise the evidence.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(kinds, 1, 1))
        self.register_buffer("spread", torch.ones(kinds, 1, 1))
        self.halves = _layer(12, width)  # at every second pixel
        self.quarters = nn.Sequential(
            _layer(width, 2 * width, stride=2), _layer(2 * width, 2 * width)
        )
        self.eighths = _layer(2 * width, 4 * width, stride=2)
        self.evidence = nn.Sequential(nn.Conv2d(kinds, 2 * width, 1), nn.ReLU())
        self.together = nn.Sequential(
            _layer(6 * width, 4 * width), _layer(4 * width, 4 * width, dilation=2)
        )
        self.to_quarters = _layer(6 * width, 2 * width)
        self.to_halves = _layer(3 * width, 2 * width)
        self.to_pixels = nn.Conv2d(2 * width, 4, 3, padding=1)

    def fit(self, evidence: torch.Tensor) -> None:
        """Standardise by evidence (N, E, rows, cols)."""
        variance, mean = torch.var_mean(evidence, dim=(0, 2, 3), correction=0)
        self.mean.copy_(mean.view(-1, 1, 1))
        self.spread.copy_(variance.sqrt().clamp(min=1e-6).view(-1, 1, 1))

    def silence(self) -> None:
        """Let it say the same of every pixel, even if its weights are no numbers any more."""
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.detach().nan_to_num_(0.0, 0.0, 0.0)
        nn.init.zeros_(self.to_pixels.weight)
        assert self.to_pixels.bias is not None
        nn.init.zeros_(self.to_pixels.bias)

    def forward(self, pixels: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
        """Logits of each pixel; higher is more likely altered."""
        height, width = pixels.shape[2:]
        margin = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
        padded = F.pad(pixels - 0.5, margin, "replicate") if any(margin) else pixels - 0.5
        # 1. What is there, at a half, a quarter and an eighth of the canvas.
        halves = self.halves(F.pixel_unshuffle(padded, 2))
        quarters = self.quarters(halves)
        eighths = self.eighths(quarters)
        # 2. What speaks against it.
        standard = ((evidence - self.mean) / self.spread).clamp(_LOWEST, _HIGHEST)
        against = _resized(self.evidence(standard), eighths)
        # 3. Back to the pixels.
        together = self.together(torch.cat([eighths, against], dim=1))
        at_quarters = self.to_quarters(torch.cat([_resized(together, quarters), quarters], dim=1))
        at_halves = self.to_halves(torch.cat([_resized(at_quarters, halves), halves], dim=1))
        logits = F.pixel_shuffle(self.to_pixels(at_halves), 2)
        return logits[:, 0, :height, :width]


def _layer(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(
        inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _resized(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    size = like.shape[-2:]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
