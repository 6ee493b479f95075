"""What a few confirmed defects teach: the operating point, and the weights of the evidence.

    python -m bench.verdicts ../data/magnetic_tile MODEL --escape-cost 100 --defect-rate 0.01

Of the test split's defects so many are drawn as if people had confirmed them; the others test what
follows. `same`: drawn among all kinds; `new`: the others are of a kind that nobody has confirmed.
The model must not have been trained or calibrated on the set's validation split with folds, which
calibrates here.

The operating point is the rate that costs the least (`anomaly.cost`). Its cost on the test split
stands beside that of the usual rate and of the best rate of the list in hindsight. The weights are
learned by a penalty on their logarithms, drawn copies counting as five defects; each calibration
part is scored by weights that were learned without its fold, so that the stated rate holds.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from anomaly.bundle import load_bundle
from anomaly.calibrate import calibrate
from anomaly.calibration import Calibration, CalibrationSettings
from anomaly.conformal import Conformal
from anomaly.cost import Stakes, cheapest, costs
from anomaly.metrics import reachable_recall
from anomaly.normal_set import NormalSet, folds_of
from anomaly.preprocess import preprocess
from anomaly.scoring import Evidence
from bench.sessions import independent
from training.calibrate import canvas_errors, measure
from training.data import Dataset, open_dataset
from training.decoding import STRICT
from training.progress import QUIET

_CONFIRMED = (0, 1, 5, 10, 20)
_LEAST_OF_KIND = 5
_DRAWN_COUNT_AS, _MOST_DRAWN = 5.0, 60
_TOP = 0.2  # share of the normal images that weights are learned against: the highest
_STEPS, _RATE = 30, 0.1
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Parts:
    """A calibrated model's evidence on its calibration parts and on N test parts."""

    normals: NormalSet
    calibration: Calibration
    test: Evidence
    kinds: np.ndarray  # (N,) of str

    @property
    def bad(self) -> np.ndarray:
        """Which test parts are defective, (N,)."""
        priced: np.ndarray = self.kinds != "good"
        return priced


def main() -> None:
    """Print both tables for each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--escape-cost", type=float, default=100.0)
    parser.add_argument("--defect-rate", type=float, default=0.01)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--penalty", type=float, default=1.0, help="of the weights' logarithms")
    parser.add_argument("--weights", action="store_true", help="learn weights as well: minutes")
    options = parser.parse_args()
    parts = gathered(independent(open_dataset(options.data)), options.model)
    stakes = Stakes(options.escape_cost, 1.0, options.defect_rate)
    print(operating_points(parts, stakes, options.draws))
    if options.weights:
        print(learned_weights(parts, options.draws, options.penalty))


def gathered(dataset: Dataset, folder: Path) -> Parts:
    """Calibrate on the validation split and look at the test split."""
    model = load_bundle(folder).model
    normals = measure(model, dataset.normal("validation"), progress=QUIET)
    test = dataset.select("test")
    batches = STRICT.on(model.config.preprocess.canvas).batches(test)
    evidence = [
        canvas_errors(model, preprocess([image for _, image in batch], model.config.preprocess)[0])
        for batch in batches
    ]
    kinds = np.array([sample.label for sample in test])
    return Parts(normals, calibrate(normals), Evidence.concatenate(evidence), kinds)


def drawn(parts: Parts, draws: int) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yield who is new, how many are confirmed, the rows of those, and the rows of the others.

    So many that no other is left are left out.
    """
    bad = np.flatnonzero(parts.bad)
    kinds, counts = np.unique(parts.kinds[bad], return_counts=True)
    large = kinds[counts >= _LEAST_OF_KIND]
    for mode in ("same", "new") if len(large) > 1 else ("same",):
        for confirmed in _CONFIRMED:
            for draw in range(draws if confirmed else 1):
                generator = np.random.default_rng((draw, confirmed))
                left_out = bad[:0]
                if mode == "new":
                    left_out = bad[parts.kinds[bad] == large[draw % len(large)]]
                pool = np.setdiff1d(bad, left_out)
                rows = generator.choice(pool, min(confirmed, len(pool)), replace=False)
                test_rows = left_out if mode == "new" else np.setdiff1d(bad, rows)
                if len(test_rows):
                    yield mode, confirmed, rows, test_rows


def operating_points(parts: Parts, stakes: Stakes, draws: int) -> str:
    """Lay out the chosen rate and what it costs of 1,000 parts on the test split."""
    calibration, grid = parts.calibration, parts.normals.grid
    scores = calibration.image_scores(parts.test, grid).numpy()
    good = scores[~parts.bad]
    usual_threshold = calibration.threshold
    lines = [
        f"usual rate {calibration.false_alarm_rate:.1%}, {calibration.images.groups} parts, "
        f"an escape costs {stakes.escape:g}, {stakes.defect_rate:.1%} are defective\n",
        "| others | confirmed | chosen rate | realised | recall (usual) | cost | usual | best |",
        "|---" * 8 + "|",
    ]
    rows: dict[tuple[str, int], list[list[float]]] = {}
    for mode, confirmed, confirmed_rows, test_rows in drawn(parts, draws):
        priced = costs(calibration, stakes, scores[confirmed_rows].tolist())
        cheapest_point = cheapest(priced).trade_off

        def cost(threshold: float, test_rows: np.ndarray = test_rows) -> float:
            return real_cost(stakes, good > threshold, scores[test_rows] > threshold)

        rows.setdefault((mode, confirmed), []).append(
            [
                cheapest_point.rate or 0.0,
                float((good > cheapest_point.threshold).mean()),
                float((scores[test_rows] > cheapest_point.threshold).mean()),
                cost(cheapest_point.threshold),
                cost(usual_threshold),
                min(cost(rate_cost.trade_off.threshold) for rate_cost in priced),
                float((scores[test_rows] > usual_threshold).mean()),
            ]
        )
    for (mode, confirmed), values in rows.items():
        rate, realised, recall, chosen_cost, before, best, recall_before = np.mean(values, axis=0)
        lines.append(
            f"| {mode} | {confirmed} | {rate:.1%} | {realised:.1%} | {recall:.3f} "
            f"({recall_before:.3f}) | {chosen_cost:.0f} | {before:.0f} | {best:.0f} |"
        )
    return "\n".join(lines)


def real_cost(stakes: Stakes, alarms: np.ndarray, caught: np.ndarray) -> float:
    """Cost of 1,000 parts that are like the test's."""
    escapes = stakes.defect_rate * (1 - caught.mean())
    false_alarms = (1 - stakes.defect_rate) * alarms.mean()
    return float(1000 * (stakes.escape * escapes + stakes.false_alarm * false_alarms))


def learned_weights(parts: Parts, draws: int, penalty: float) -> str:
    """Lay out what learned weights change at a stated 5 %, in the mean and at worst."""
    maps = _Maps.of(parts)
    calibration = calibrate(parts.normals, CalibrationSettings(0.05))
    start = [calibration.weights] * (_FOLDS + 1)
    lines = [
        "| others | confirmed | recall | AUROC | reachable at 5 % | false alarms |",
        "|---" * 6 + "|",
    ]
    rows: dict[tuple[str, int], list[np.ndarray]] = {}
    for mode, confirmed, confirmed_rows, test_rows in drawn(parts, draws):
        if confirmed:
            before = judged(maps, calibration, start, test_rows)
            learned = maps.learned(calibration.weights, confirmed_rows, penalty)
            after = judged(maps, calibration, learned, test_rows)
            rows.setdefault((mode, confirmed), []).append(after - before)
    for (mode, confirmed), changes in rows.items():
        mean, worst = np.mean(changes, axis=0), np.min(changes, axis=0)
        cells = [f"{m:+.3f} (worst {w:+.3f})" for m, w in zip(mean[:3], worst[:3], strict=True)]
        lines.append(f"| {mode} | {confirmed} | {' | '.join(cells)} | {mean[3]:+.3f} |")
    return "\n".join(lines)


def judged(
    maps: "_Maps", calibration: Calibration, weights: Sequence[torch.Tensor], test_rows: np.ndarray
) -> np.ndarray:
    """Return recall, AUROC and reachable recall on the others, and false alarms.

    The weights are those without each fold, and behind them those of all.
    """
    held = torch.zeros(len(maps.normal))
    for fold, learned in enumerate(weights[:-1]):
        rows = maps.folds == fold
        held[rows] = maps.score(learned, maps.normal[rows])
    images = Conformal.fit(held.numpy(), maps.groups)
    threshold = calibration.threshold_of(images, 0.05)
    scores = maps.score(weights[-1], maps.test).numpy()
    good, bad = scores[~maps.bad], scores[test_rows]
    label = np.arange(len(good) + len(bad)) >= len(good)
    scored = np.concatenate([good, bad])
    return np.array(
        [
            (bad > threshold).mean(),
            roc_auc_score(label, scored),
            reachable_recall(label, scored),
            (good > threshold).mean(),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Maps:
    """Smoothed maps (N, E, K) of each kind of evidence, on the cells that can decide a score."""

    normal: torch.Tensor
    copies: torch.Tensor
    test: torch.Tensor
    bad: np.ndarray
    groups: tuple[str, ...]
    folds: torch.Tensor
    count: int

    @classmethod
    def of(cls, parts: Parts) -> "_Maps":
        reduction, grid = parts.calibration.reduction, parts.normals.grid
        count = max(1, round(reduction.top_share * grid.rows * grid.cols))

        def cells(evidence: Evidence) -> torch.Tensor:
            maps = [n(evidence.mean) for n in parts.calibration.normalisers]
            smooth = reduction.smooth(torch.stack(maps).mean(dim=0), grid)
            rank = smooth.argsort(dim=2, descending=True).argsort(dim=2).amin(dim=1)
            cell_count = min(max(64, 16 * count), smooth.shape[2])
            index = rank.topk(cell_count, dim=1, largest=False).indices
            return smooth.gather(2, index[:, None].expand(-1, smooth.shape[1], -1))

        normals = parts.normals
        assert normals.corrupted is not None
        copies = cells(normals.corrupted)
        return cls(
            cells(normals.evidence),
            copies[:: max(1, len(copies) // _MOST_DRAWN)],
            cells(parts.test),
            parts.bad,
            normals.groups,
            torch.from_numpy(folds_of(normals.groups, _FOLDS)),
            count,
        )

    def score(self, weights: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        fused = torch.einsum("nek,e->nk", maps, weights)
        return fused.topk(self.count, dim=1).values.mean(dim=1)

    def learned(
        self, start: torch.Tensor, confirmed_rows: np.ndarray, penalty: float
    ) -> list[torch.Tensor]:
        """Weights learned without each fold's parts, and with all of them."""
        without = [self.normal[self.folds != fold] for fold in range(_FOLDS)]
        defects = self.test[confirmed_rows]
        return [self._fit(start, part, defects, penalty) for part in [*without, self.normal]]

    def _fit(
        self, start: torch.Tensor, normal: torch.Tensor, defects: torch.Tensor, penalty: float
    ) -> torch.Tensor:
        logs = torch.zeros(len(start), requires_grad=True)
        optimiser = torch.optim.Adam([logs], lr=_RATE)
        everything = torch.cat([normal, self.copies, defects])
        sizes = [len(normal), len(self.copies), len(defects)]
        for _ in range(_STEPS):
            scores = self.score(start * logs.exp(), everything)
            of_normal, of_copies, of_defects = torch.split(scores, sizes)
            top = of_normal.topk(max(2, round(_TOP * len(of_normal)))).values
            spread = of_normal.std().detach()
            losses = [
                F.softplus((top[None] - of[:, None]) / spread).mean()
                for of in (of_defects, of_copies)
            ]
            loss = len(defects) * losses[0] + _DRAWN_COUNT_AS * losses[1]
            loss = loss + penalty * logs.square().sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        weights = (start * logs.exp()).detach()
        # As high scores as before on the mean: folds and all share one threshold.
        before, after = self.score(start, normal).mean(), self.score(weights, normal).mean()
        return weights * before / after


if __name__ == "__main__":
    main()
