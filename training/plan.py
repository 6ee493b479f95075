"""Decides the canvas from the training images, before training.

Small defects vanish when an image is shrunk; large ones spread beyond what the features see when it
is not, and a larger canvas costs time at every inspection. Each candidate is tried without training
anything (`training.separation`), on local and on diffuse defects. No real defect is looked at.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anomaly.preprocess import MOST_BANDS
from anomaly.types import RgbImage
from training.config import TrainConfig
from training.data import Sample
from training.decoding import STRICT
from training.errors import RecipeError
from training.export import inspection_ms
from training.loop import new_model
from training.progress import SHOWN, Progress
from training.separation import KINDS, Separation, gain, separation, with_defects

_log = logging.getLogger(__name__)
_NATIVE = 1.15  # a canvas may exceed the images' shorter side by this much
_SPREADS = 1.0  # of the bootstrap: by so much must a gain be above nothing
_LEAST = 8  # images


@dataclass(frozen=True, slots=True)
class Plan:
    """The recipe with its canvas decided, and what the canvases were found to bring and cost."""

    config: TrainConfig
    tried: Mapping[int, Separation]
    milliseconds: Mapping[int, float]

    @property
    def canvas(self) -> int:
        """The canvas that was decided on."""
        return self.config.model.preprocess.canvas

    @property
    def favourites(self) -> dict[str, int]:
        """The canvas that tells each kind of defect best."""
        return {
            kind: max(self.tried, key=lambda canvas: self.tried[canvas].recalls[kind])
            for kind in (KINDS if self.tried else ())
        }

    def as_dict(self) -> dict[str, Any]:
        """For the model's card."""
        tried = {
            str(canvas): {kind: round(recall, 4) for kind, recall in separated.recalls.items()}
            for canvas, separated in self.tried.items()
        }
        timed = {str(canvas): round(ms, 1) for canvas, ms in self.milliseconds.items()}
        bands = self.config.model.preprocess.bands
        return {"canvas": self.canvas, "bands": bands, "synthetic_recall": tried, "ms": timed}


def plan(samples: Sequence[Sample], config: TrainConfig, *, progress: Progress = SHOWN) -> Plan:
    """Decide bands and canvas. Raises `RecipeError` where every candidate takes too long."""
    order = np.random.default_rng((config.run.seed, 7)).permutation(len(samples))
    tries = bool(config.plan.canvases) and config.model.target.kind == "features"
    looked_at = config.plan.images if tries else _LEAST if config.plan.long else 0
    images = [image for _, image in STRICT.images([samples[i] for i in order[:looked_at]])]
    config = with_bands(config, images)
    candidates = [config.model.preprocess.canvas]
    if tries:
        bands = config.model.preprocess.bands
        first, *larger = sorted(
            {whole_bands(config, canvas, bands) for canvas in config.plan.canvases}
        )
        native = bands * float(np.median([min(image.size) for image in images]))
        candidates = [first, *(canvas for canvas in larger if canvas <= _NATIVE * native)]
    milliseconds = _timed(candidates, config)
    candidates = _quick_enough(candidates, milliseconds, config.plan.max_ms)
    tried = {}
    if len(candidates) > 1 and len(images) >= _LEAST:
        drawn = with_defects(images, config.run.seed)
        tried = {
            canvas: separation(images, drawn, with_canvas(config, canvas))
            for canvas in progress.each(candidates, "canvas", total=len(candidates), unit="canvas")
        }
    decided = Plan(with_canvas(config, _decide(candidates, tried, config)), tried, milliseconds)
    _say(decided)
    return decided


def _decide(candidates: list[int], tried: Mapping[int, Separation], config: TrainConfig) -> int:
    """Take the smallest unless a larger one brings what its pixels cost."""
    canvas_chosen = candidates[0]
    for canvas in candidates[1:] if tried else ():
        mean, spread = gain(tried[canvas], tried[canvas_chosen])
        price = config.plan.gain * 2 * np.log2(canvas / canvas_chosen)
        if mean > max(price, _SPREADS * spread):
            canvas_chosen = canvas
    return canvas_chosen


def _timed(candidates: Sequence[int], config: TrainConfig) -> dict[int, float]:
    """Milliseconds of each candidate's network on this machine, where they matter."""
    if not config.plan.max_ms:
        return {}
    graphs = config.run.export != "never"
    return {
        c: inspection_ms(new_model(with_canvas(config, c)), with_graph=graphs) for c in candidates
    }


def _quick_enough(
    candidates: list[int], milliseconds: Mapping[int, float], max_ms: float
) -> list[int]:
    """Drop what takes too long; raises `RecipeError` where nothing is left."""
    quick = [canvas for canvas in candidates if milliseconds.get(canvas, 0.0) <= max_ms]
    if milliseconds and not quick:
        raise RecipeError(
            f"an image takes {milliseconds[candidates[0]]:.0f} ms on this machine at "
            f"{candidates[0]} px, more than --max-ms {max_ms:g}: allow more, take --recipe fast, "
            "or train and serve on a faster machine"
        )
    return quick if milliseconds else candidates


def _say(decided: Plan) -> None:
    """Log the choice, and where the kinds of defects disagree."""
    if not decided.tried:
        return
    texts = []
    for canvas, separated in decided.tried.items():
        recalls = ", ".join(f"{kind} {recall:.3f}" for kind, recall in separated.recalls.items())
        texts.append(f"{canvas} px {recalls}")
    _log.info(
        "canvas %d px (drawn defects above nine tenths of the normal images: %s)",
        decided.canvas,
        "; ".join(texts),
    )
    if len(set(decided.favourites.values())) > 1:
        wishes = ", ".join(f"{canvas} px for {kind}" for kind, canvas in decided.favourites.items())
        _log.info(
            "the kinds of defects disagree (%s): if yours are of one kind, name its canvas, as in "
            "--set plan.canvases=[448]",
            wishes,
        )


def with_bands(config: TrainConfig, images: Sequence[RgbImage]) -> TrainConfig:
    """Return the recipe with long pictures cut in bands that make about a square together."""
    preprocess, plan_ = config.model.preprocess, config.plan
    aspects = [max(image.source_size) / min(image.source_size) for image in images]
    aspect = float(np.median(aspects)) if aspects else 1.0
    if preprocess.bands != 1 or not plan_.long or aspect < plan_.long:
        return config
    bands = min(round(math.sqrt(aspect)), MOST_BANDS)
    _log.info(
        "the images are %.3g times as long as wide: each is cut into %d bands, laid side by side",
        aspect,
        bands,
    )
    return with_canvas(config, whole_bands(config, preprocess.canvas, bands), bands)


def whole_bands(config: TrainConfig, canvas: int, bands: int) -> int:
    """Return the smallest canvas, not below this one, that has whole patches in each band."""
    step = math.lcm(16, config.model.target.patch) * bands if bands > 1 else 1
    return -(-canvas // step) * step


def with_canvas(config: TrainConfig, canvas: int, bands: int = 0) -> TrainConfig:
    """Return the recipe with this canvas, cut in so many bands (0: as it is)."""
    before = config.model.preprocess
    preprocess = replace(before, canvas=canvas, bands=bands or before.bands)
    if preprocess == before:
        return config
    return replace(config, model=replace(config.model, preprocess=preprocess))
