"""Fits the detail head: it learns on corrupted copies of training images which pixels are altered.

The copies carry more and finer defects than those that the repair head learns from, strokes of a
pixel or two among them, and the evidence that an inspection would gather on them. No real defect is
looked at.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from anomaly.corruption import corrupt, corrupt_diffusely, corrupt_finely
from anomaly.detail_head import DetailHead
from anomaly.model import AnomalyModel
from anomaly.preprocess import PreprocessConfig, placement_of, preprocess
from anomaly.types import RgbImage
from training.calibrate import canvas_errors
from training.config import DetailConfig, TrainConfig
from training.data import Sample
from training.decoding import STRICT
from training.evidence import canvas_share
from training.progress import SHOWN, Progress

_log = logging.getLogger(__name__)
_USUAL_SIDE = 224  # canvas pixels, in which a defect is drawn
_USUAL_PX = _USUAL_SIDE**2  # larger canvases carry more defects, and there are fewer of them
_FEWEST = 1 / 8  # of the copies, on whatever canvas
_CROPS = 3  # of each copy of the usual size
_CHUNK = 8
_PLAIN, _DIFFUSE = 0.45, 0.1  # shares of the defects; the rest is fine
_SEEN = 0.3  # of a pixel that is altered
_ON_DEFECT = 0.75  # share of the crops that lie on a defect
_BLIND = 0.2  # share of the crops without evidence, so that pixels are looked at, too
_HELD_OUT = 0.1  # share of the crops that are not trained on and tell whether that helped
_LEAST_AUROC = 0.75  # of pixels of those
_DICE = 0.5  # weight of the overlap beside the cross-entropy: altered pixels are few


@dataclass(frozen=True, slots=True)
class _Crops:
    """N squares of corrupted canvases with the evidence on them.

    `pixels` (N, 3, c, c) uint8, `evidence` (N, E, n, n), `share` (N, c, c) in [0, 1] says how much
    of each pixel is altered.
    """

    pixels: torch.Tensor
    evidence: torch.Tensor
    share: torch.Tensor

    def __getitem__(self, rows: torch.Tensor | slice) -> "_Crops":
        return _Crops(self.pixels[rows], self.evidence[rows], self.share[rows])


def fit_detail(
    model: AnomalyModel,
    samples: Sequence[Sample],
    config: TrainConfig,
    *,
    progress: Progress = SHOWN,
) -> None:
    """Train the detail head of a model whose other parts are trained, in place.

    Where it learns nothing it is silenced: maps then keep the shape that evidence gives them.
    """
    if model.detail is None:
        return
    crops = _crops(model.eval(), samples, config, progress)
    held = max(1, round(_HELD_OUT * len(crops.pixels)))
    model.detail.fit(crops.evidence)
    _train(model.detail, crops[held:], config, progress)
    if not _has_learned(model.detail, crops[:held]):
        _log.warning("the detail head has learned nothing: maps stay as coarse as the evidence")
        model.detail.silence()


def _train(head: DetailHead, crops: _Crops, config: TrainConfig, progress: Progress) -> None:
    settings, device = config.detail, head.mean.device
    generator = torch.Generator().manual_seed(config.run.seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=max(2, settings.steps)
    )
    head.train()
    with progress.bar("detail head", total=settings.steps, unit="step") as bar:
        for _ in range(settings.steps):
            pixels, evidence, share = _batch(crops, settings, head, generator)
            logits = head(pixels.to(device), evidence.to(device))
            loss = _loss(logits, share.to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            bar.update()
    head.eval()


def _batch(
    crops: _Crops, settings: DetailConfig, head: DetailHead, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw crops, some mirrored and some blind: pixels in [0, 1], evidence and share."""
    drawn = crops[torch.randint(len(crops.pixels), (settings.batch_size,), generator=generator)]
    pixels, share = drawn.pixels.float() / 255, drawn.share
    blind = torch.rand(settings.batch_size, generator=generator) < _BLIND
    evidence = torch.where(blind.view(-1, 1, 1, 1), head.mean.cpu(), drawn.evidence)
    for axis in (-2, -1):
        flipped = torch.rand(settings.batch_size, generator=generator) < 0.5
        pixels, evidence, share = (
            torch.where(flipped.view(-1, *[1] * (x.ndim - 1)), x.flip(axis), x)
            for x in (pixels, evidence, share)
        )
    return pixels, evidence, share


def _loss(logits: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of pixels and, per crop, how little what is drawn overlaps the truth."""
    guess = logits.sigmoid()
    overlap = 2 * (guess * share).sum(dim=(1, 2)) + 1
    dice = overlap / ((guess + share).sum(dim=(1, 2)) + 1)
    return F.binary_cross_entropy_with_logits(logits, share) + _DICE * (1 - dice.mean())


@torch.inference_mode()
def _has_learned(head: DetailHead, crops: _Crops) -> bool:
    """Whether it ranks the pixels of held-out crops far better than chance."""
    device, guesses = head.mean.device, []
    for pixels, evidence in zip(crops.pixels, crops.evidence, strict=True):
        logits = head(pixels[None].to(device).float() / 255, evidence[None].to(device))
        guesses.append(logits[0].cpu())
    guess, altered = torch.stack(guesses), crops.share > _SEEN
    if not bool(torch.isfinite(guess).all()) or not 0 < int(altered.sum()) < altered.numel():
        return False
    return bool(roc_auc_score(altered.flatten(), guess.flatten()) > _LEAST_AUROC)


def _crops(
    model: AnomalyModel, samples: Sequence[Sample], config: TrainConfig, progress: Progress
) -> _Crops:
    """Corrupt copies of training images, gather evidence on them and cut them, in random order."""
    generator = np.random.default_rng((config.run.seed, 7))
    canvas_px = config.model.preprocess.canvas**2
    wished = min(config.detail.copies, config.detail.copies_each * len(samples))
    copies = math.ceil(wished * max(_FEWEST, min(1.0, _USUAL_PX / canvas_px)))
    of_each = math.ceil(_CROPS * wished / copies)
    cut = _Cutter(model, config.detail.crop, generator)
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    with progress.bar("fine corruption", total=copies, unit="image") as bar:
        for pixels, shares in _corrupted(model, samples, copies, generator):
            evidence = canvas_errors(model, pixels).mean  # (B, E, L)
            for i in range(len(pixels)):
                parts += [cut(pixels[i], evidence[i], shares[i]) for _ in range(of_each)]
            bar.update(len(pixels))
    order = torch.from_numpy(generator.permutation(len(parts)))
    stacked = [torch.stack(column)[order] for column in zip(*parts, strict=True)]
    return _Crops(stacked[0], stacked[1], stacked[2])


def _corrupted(
    model: AnomalyModel, samples: Sequence[Sample], copies: int, generator: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Corrupted canvases (B, 3, S, S), and the altered share of their pixels (B, S, S)."""
    preprocessing = model.config.preprocess
    rounds = -(-copies // len(samples))
    order = np.concatenate([generator.permutation(len(samples)) for _ in range(rounds)])[:copies]
    damage = _Damage(preprocessing, generator)
    for start in range(0, copies, _CHUNK):
        drawn_from = [samples[i] for i in order[start : start + _CHUNK]]
        drawn = [damage(image) for _, image in STRICT.on(preprocessing.canvas).images(drawn_from)]
        shares = [torch.from_numpy(canvas_share(mask, preprocessing)) for _, mask in drawn]
        yield preprocess([copy for copy, _ in drawn], preprocessing)[0], torch.stack(shares)


@dataclass(slots=True)
class _Damage:
    """Draws defects of all kinds on images; the previous image is the donor of each.

    A defect's size follows from the usual canvas, and so does what it costs to draw one.
    """

    preprocessing: PreprocessConfig
    generator: np.random.Generator
    donor: RgbImage | None = None

    def __call__(self, image: RgbImage) -> tuple[RgbImage, np.ndarray]:
        """Return a copy with one or two defects for the usual canvas, and their mask (H, W)."""
        donor, self.donor = self.donor or image, image
        scale = placement_of(image.size, self.preprocessing).scale
        pixels, mask = image.pixels.copy(), np.zeros(image.size, bool)
        area = max(1.0, self.preprocessing.canvas**2 / _USUAL_PX)
        for _ in range(round(area * self.generator.integers(1, 3))):
            window, from_donor = self._window(image, scale), self._window(donor, scale)
            drawn, altered = self._defect(
                RgbImage(pixels[window]), RgbImage(donor.pixels[from_donor]), min(scale)
            )
            pixels[window] = drawn.pixels
            mask[window] |= altered
        return RgbImage(pixels), mask

    def _window(self, image: RgbImage, scale: tuple[float, float]) -> tuple[slice, slice]:
        """Draw a part of an image, as large as the usual canvas or all there is."""
        sides = [
            min(side, max(1, round(_USUAL_SIDE * s)))
            for side, s in zip(image.size, scale, strict=True)
        ]
        tops = [
            int(self.generator.integers(side - length + 1))
            for side, length in zip(image.size, sides, strict=True)
        ]
        rows, columns = (slice(top, top + side) for top, side in zip(tops, sides, strict=True))
        return rows, columns

    def _defect(self, part: RgbImage, donor: RgbImage, pixel: float) -> tuple[RgbImage, np.ndarray]:
        kind = self.generator.random()
        if kind < _PLAIN:
            return corrupt(part, donor, self.generator)
        if kind < _PLAIN + _DIFFUSE:
            return corrupt_diffusely(part, self.generator)
        return corrupt_finely(part, donor, self.generator, pixel)


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Cuts squares out of canvases along their cells, most of them on a defect."""

    model: AnomalyModel
    side: int
    generator: np.random.Generator

    def __call__(
        self, pixels: torch.Tensor, evidence: torch.Tensor, share: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels uint8, evidence and altered share of one square of a canvas."""
        grid = self.model.target.map_grid
        cell, cells = grid.patch, min(grid.rows, max(1, self.side // grid.patch))
        first = self.generator.integers(0, grid.rows - cells + 1, 2)
        altered = (share > _SEEN).nonzero()
        if len(altered) and self.generator.random() < _ON_DEFECT:
            at = altered[int(self.generator.integers(len(altered)))].numpy() // cell
            first = np.clip(at - self.generator.integers(0, cells, 2), 0, grid.rows - cells)
        row, column = (int(place) for place in first)
        by_cell = evidence.view(-1, grid.rows, grid.cols)
        rows, columns = slice(row, row + cells), slice(column, column + cells)
        ys = slice(row * cell, (row + cells) * cell)
        xs = slice(column * cell, (column + cells) * cell)
        as_bytes = (pixels[:, ys, xs] * 255).round().to(torch.uint8)
        return as_bytes, by_cell[:, rows, columns].clone(), share[ys, xs].clone()
