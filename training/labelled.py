"""Fits the labelled head on a handful of masks, and calibrates a model anew with what it says.

The head is a balanced logistic regression: cells that a mask covers against cells of the same
images that it does not, and cells of good parts that the *model* was trained on. So no good part
that taught the head calibrates it, now or later: calibration sees other good parts, as always. How
strongly the weights are held down is chosen by leaving out labelled parts. A second half of those
good parts, on which the rule is not fitted, says how high the cells of good parts reach.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score

from anomaly.bundle import Bundle
from anomaly.labelled_head import accusing, inputs
from anomaly.model import AnomalyModel
from anomaly.patches import refine
from anomaly.preprocess import content_seed, preprocess
from anomaly.scoring import Family
from anomaly.types import RgbImage
from training.data import listed
from training.decoding import STRICT, Decoding
from training.errors import DataError
from training.evidence import altered_cells
from training.groups import regrouped, with_copies_together
from training.identity import seen
from training.progress import SHOWN, Progress
from training.samples import Dataset, Sample, few_of, printable
from training.seen import trained_on
from training.truth import check_mask_sizes, read_mask

_log = logging.getLogger(__name__)
FAMILY = "labelled"
FEWEST = 5  # masks: a single one is worth nothing (docs/labels.md)
TEACHES, REACHES = -1, -2
_COVERED = 0.3  # share of a cell that is marked before it counts as defective
_OF_IMAGE = 60  # cells of an image, marked and not marked
_NORMALS = 100  # good parts, half of which teach
_REACHING = 300  # cells of each of the others
_HIGH = 0.999  # quantile of good parts' cells above which the head accuses
_PENALTIES = (1e-1, 1e-2, 1e-3)  # the strongest first
_FOLDS = 5
_STEPS = 60


@dataclass(frozen=True, slots=True)
class Cells:
    """N cells of the map: `inputs` (N, D), `marked` (N,) bool, `group` (N,) int64.

    A group is a labelled part; cells of good parts have `TEACHES`, or `REACHES` where the rule is
    not fitted on them and they say how high good parts reach.
    """

    inputs: torch.Tensor
    marked: torch.Tensor
    group: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> "Cells":
        """Pick cells by index or bool mask."""
        return Cells(self.inputs[rows], self.marked[rows], self.group[rows])

    @classmethod
    def joined(cls, parts: "Sequence[Cells]") -> "Cells":
        """Put cells together."""
        columns = zip(*((p.inputs, p.marked, p.group) for p in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))


@dataclass(frozen=True, slots=True)
class Rule:
    """A linear rule on cells: `weights` (D,), `bias`, and the penalty that it was fitted with.

    The bias is such that hardly a cell of a good part lies above 0.
    """

    weights: torch.Tensor
    bias: float
    penalty: float

    def __call__(self, cells: torch.Tensor) -> torch.Tensor:
        """What the head makes of cells (..., D)."""
        return accusing(cells @ self.weights + self.bias)


def labelled_parts(data: Dataset, masks: Path | None, group_by: str | None) -> list[Sample]:
    """Return the defective images that have a mask: of a folder of labels, or of the set's test.

    Raises `DataError` where there are too few, or where a mask does not fit its image.
    """
    samples = data.samples if masks is None else listed(masks).samples
    marked = [sample for sample in samples if not sample.is_normal and sample.mask is not None]
    where = printable(data.root if masks is None else masks)
    if len(marked) < FEWEST:
        raise DataError(
            f"{len(marked)} defective images with a mask in {where}; want {FEWEST} at the least: "
            "fewer make maps worse, not better. Mark more, as ground_truth/<kind>/<name>_mask.png "
            "beside test/<kind>/"
        )
    check_mask_sizes(marked)
    counts = Counter(sample.label for sample in marked)
    few = [f"{printable(kind)} ({count})" for kind, count in counts.items() if count < FEWEST]
    if few:
        _log.warning("fewer than %d masks of %s: they help little", FEWEST, few_of(few))
    return with_copies_together(_grouped(sample, group_by) for sample in marked)


def _grouped(sample: Sample, group_by: str | None) -> Sample:
    """Set a defective part's session; its name need not fit the pattern of good ones."""
    try:
        return regrouped([sample], group_by)[0]
    except DataError:
        return sample


def teachers(bundle: Bundle, data: Dataset) -> list[Sample]:
    """Return good parts of a set that the model was trained on, a hundred at the most."""
    good = [sample for sample in data.samples if sample.is_normal and sample.split == "train"]
    trained = seen(good, trained_on(bundle))
    if not trained:
        _log.warning(
            "none of the good parts is one that the model was trained on: the head learns what is "
            "normal from the labelled images alone"
        )
    order = np.random.default_rng(0).permutation(len(trained))[:_NORMALS]
    return [trained[i] for i in sorted(order.tolist())]


def gather_cells(
    model: AnomalyModel,
    marked: Sequence[Sample],
    normal: Sequence[Sample],
    *,
    decoding: Decoding = STRICT,
    progress: Progress = SHOWN,
) -> Cells:
    """Look at all images once and draw cells of each."""
    generator, parts = np.random.default_rng(0), []
    groups = {name: i for i, name in enumerate(sorted({s.session for s in marked}))}
    everything = [*marked, *normal]
    reaching = {sample.path for sample in normal[1::2]}
    with progress.bar("labels", total=len(everything), unit="image") as bar:
        side = model.config.preprocess.canvas
        for batch in decoding.on(side).batches(everything):
            cells = map_cells(model, [image for _, image in batch])
            for (sample, image), of_image in zip(batch, cells, strict=True):
                share = altered_cells(model, [read_mask(sample, image.source_size)])[0]
                group = groups.get(sample.session, TEACHES)
                if sample.is_normal:
                    group = REACHES if sample.path in reaching else TEACHES
                parts.append(draw_cells(of_image, share, group, generator))
            bar.update(len(batch))
    return Cells.joined(parts)


@torch.inference_mode()
def map_cells(model: AnomalyModel, images: Sequence[RgbImage]) -> torch.Tensor:
    """What the head sees of each cell of the map, (B, L, D) on the CPU, averaged over repeats."""
    pixels, _ = preprocess(images, model.config.preprocess)
    tokens = model.target(pixels.to(model.target.mean.device))
    predicted = model.predict(tokens, [content_seed(canvas) for canvas in pixels]).mean(dim=1)
    return seen_cells(model, tokens, predicted).cpu()


def seen_cells(model: AnomalyModel, tokens: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Bring tokens and their predictions (B, L, C) to what the head sees on the map, (B, L, D)."""
    target = model.target
    true, guess = target.cells(target.to_predict(tokens)), target.cells(predicted)
    fine = target.map_grid.rows // target.grid.rows
    on_map = [
        refine(x.transpose(1, 2), target.grid.refined(block.cells), fine // block.cells)
        for block, x in zip(target.blocks, inputs(true, guess), strict=True)
    ]
    return torch.cat(on_map, dim=1).transpose(1, 2)


def draw_cells(
    cells: torch.Tensor, share: torch.Tensor, group: int, generator: np.random.Generator
) -> Cells:
    """Draw cells (L, D) of an image, of which the mask covers `share` (rows, cols).

    Half of those that are not marked lie right around a mask: evidence spreads to neighbours, and
    nothing else teaches where it ends. Cells that a mask only touches are left out.
    """
    marked = share >= min(_COVERED, max(float(share.max()), 1e-6))
    free = share == 0
    beside = free & (F.max_pool2d((~free).float()[None], 3, 1, 1)[0] > 0)

    def picked(candidates: torch.Tensor, limit: int) -> torch.Tensor:
        places = candidates.flatten().nonzero()[:, 0]
        return places[torch.from_numpy(generator.permutation(len(places))[:limit])]

    if group == REACHES:
        rows = picked(free, _REACHING)
        return Cells(
            cells[rows], torch.zeros(len(rows), dtype=torch.bool), torch.full_like(rows, group)
        )
    around = picked(beside, _OF_IMAGE // 2)
    rows = torch.cat(
        [picked(marked, _OF_IMAGE), around, picked(free & ~beside, _OF_IMAGE - len(around))]
    )
    return Cells(cells[rows], marked.flatten()[rows], torch.full((len(rows),), group))


def fit_rule(cells: Cells, penalty: float) -> Rule:
    """Fit a balanced logistic regression with an L2 penalty on the standardised inputs.

    Raises `DataError` where no cell is marked, or none is not.
    """
    reaching = cells.inputs[cells.group == REACHES]
    cells = cells[cells.group != REACHES]
    label = cells.marked.float()
    if not 0 < int(cells.marked.sum()) < len(label):
        raise DataError("the masks mark nothing, or everything; draw them around the defects alone")
    weight = torch.where(cells.marked, 0.5 / label.sum(), 0.5 / (1 - label).sum())
    spread, mean = torch.std_mean(cells.inputs, dim=0)
    standard = (cells.inputs - mean) / spread.clamp(min=1e-3)
    parameters = torch.zeros(standard.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [parameters], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = standard @ parameters[:-1] + parameters[-1]
        wrong = F.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
        total = wrong + 0.5 * penalty * parameters[:-1].square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    fitted = parameters.detach()
    weights = fitted[:-1] / spread.clamp(min=1e-3)
    # Without such parts what was not marked says it, which flatters: so all of it stays below.
    high, of_good = (_HIGH, reaching) if len(reaching) else (1.0, cells.inputs[~cells.marked])
    return Rule(weights, -float(torch.quantile(of_good @ weights, high)), penalty)


def choose_penalty(cells: Cells) -> float:
    """Choose the penalty whose rules best find what is marked on parts that they have not seen."""
    names = np.unique(cells.group[cells.group >= 0].numpy())
    if len(names) < 2:
        return _PENALTIES[0]
    order = np.random.default_rng(0).permutation(len(names)) % min(_FOLDS, len(names))
    fold = torch.full((len(cells.group),), -1)
    for name, of_fold in zip(names, order, strict=True):
        fold[cells.group == int(name)] = int(of_fold)

    def precision(penalty: float) -> float:
        scores = [_precision(cells, fold == held, penalty) for held in range(int(order.max()) + 1)]
        return float(np.mean(scores))

    return max(_PENALTIES, key=precision)


def _precision(cells: Cells, held: torch.Tensor, penalty: float) -> float:
    """Average precision on held-out cells, 0 where nothing of them, or of the others, is marked."""
    if not cells.marked[held].any() or not cells.marked[~held].any():
        return 0.0
    logits = fit_rule(cells[~held], penalty)(cells.inputs[held])
    return float(average_precision_score(cells.marked[held].numpy(), logits.numpy()))


def with_head(model: AnomalyModel, rule: Rule) -> AnomalyModel:
    """Return the model with a labelled head that follows the rule, in place of an earlier one."""
    scoring = model.config.scoring
    families: tuple[Family, ...] = (
        *(name for name in scoring.families if name != "labelled"),
        "labelled",
    )
    config = replace(model.config, scoring=replace(scoring, families=families))
    enlarged = AnomalyModel.empty(config)
    enlarged.load_state_dict(model.state_dict(), strict=False)
    assert enlarged.labelled is not None
    widths = [2 * block.channels for block in model.target.blocks]
    enlarged.labelled.fit(torch.split(rule.weights, widths), rule.bias)
    return enlarged.eval().to(model.target.mean.device)


def card_of(marked: Sequence[Sample], rule: Rule, share: float) -> dict[str, Any]:
    """What a model's card says of its labels."""
    counts = Counter(printable(sample.label) for sample in marked)
    return {"masks": dict(sorted(counts.items())), "penalty": rule.penalty, "weight": share}
