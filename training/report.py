"""The evaluation as a page: histogram, ROC, tables, and the best and worst heatmaps as pictures."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from anomaly.heatmap import as_uint8, encode_jpeg, overlay
from anomaly.types import Detection, RgbImage
from training.checkpoint import write_whole
from training.data import Sample
from training.outputs import REPORT, claim, file_name

_PICTURES_EACH = 6  # pictures at each end of the scores, for normal and anomalous images
_PICTURE_HEIGHT = 240


@dataclass(frozen=True, slots=True)
class ReportPicture:
    """An image worth showing, with what was found."""

    sample: Sample
    image: RgbImage
    detection: Detection


def keep_extremes(pictures: list[ReportPicture], new: ReportPicture) -> list[ReportPicture]:
    """Add an image and keep the six lowest and six highest scores of its kind of label."""
    same = [s for s in pictures if s.sample.is_normal == new.sample.is_normal]
    other_kind = [s for s in pictures if s.sample.is_normal != new.sample.is_normal]
    same = sorted([*same, new], key=lambda s: s.detection.pred_score)
    if len(same) > 2 * _PICTURES_EACH:
        same = same[:_PICTURES_EACH] + same[-_PICTURES_EACH:]
    return other_kind + same


def write_report(
    folder: Path,
    figures: dict[str, Any],
    scores: np.ndarray,
    *,
    labels: tuple[str, ...],
    pictures: tuple[ReportPicture, ...],
    white_level: int,
) -> Path:
    """Write `report.html`, self-contained, and the pictures as JPEGs beside it.

    Pictures of a previous report are removed.
    """
    claim(folder, REPORT)
    _remove_pictures(folder)
    anomalous = np.array([label != "good" for label in labels])
    sections, files = [], []
    for title, part in _sections(pictures):
        rows = [_picture(folder, picture, white_level) for picture in part]
        sections.append({"title": title, "rows": rows})
        files += [row["file"] for row in rows]
    loader = PackageLoader("training", ".")
    page = Environment(loader=loader, autoescape=select_autoescape(["html", "j2"])).get_template(
        "report.html.j2"
    )
    html = page.render(
        figures=figures,
        histogram=_as_png(_histogram(scores, anomalous, figures["threshold"])),
        roc=_as_png(_roc(scores, anomalous, figures["image_AUROC"])),
        trade_off=_trade_off_picture(figures["trade_offs"]),
        sections=sections,
    )
    write_whole(folder / REPORT, json.dumps(files).encode())
    path = folder / "report.html"
    write_whole(path, html.encode())
    return path


def side_by_side(picture: ReportPicture, white_level: int) -> np.ndarray:
    """Image and overlay beside each other, (240, W, 3) RGB uint8."""
    plain = as_uint8(picture.image, white_level)
    pair = np.hstack([plain, overlay(picture.image, picture.detection, white_level)])
    width = max(1, round(pair.shape[1] * _PICTURE_HEIGHT / pair.shape[0]))
    resized: np.ndarray = cv2.resize(pair, (width, _PICTURE_HEIGHT), interpolation=cv2.INTER_AREA)
    return resized


def _sections(pictures: tuple[ReportPicture, ...]) -> list[tuple[str, list[ReportPicture]]]:
    ordered = sorted(pictures, key=lambda s: -s.detection.pred_score)
    bad = [s for s in ordered if not s.sample.is_normal]
    good = [s for s in ordered if s.sample.is_normal]
    return [
        ("Anomalous, highest scores", bad[:_PICTURES_EACH]),
        ("Anomalous, lowest scores: what is missed first", bad[_PICTURES_EACH:][::-1]),
        ("Normal, highest scores: the first false alarms", good[:_PICTURES_EACH]),
    ]


def _remove_pictures(folder: Path) -> None:
    """Remove the pictures that the previous report listed as its own."""
    try:
        names = json.loads((folder / REPORT).read_bytes() or b"[]")
    except ValueError:
        return
    for name in names:
        if Path(name).name == name and name.endswith("_heatmap.jpg"):
            (folder / name).unlink(missing_ok=True)


def _picture(folder: Path, picture: ReportPicture, white_level: int) -> dict[str, Any]:
    data = encode_jpeg(side_by_side(picture, white_level))
    path = picture.sample.path
    name = f"{file_name(str(path), picture.sample.label, path.stem)}_heatmap.jpg"
    write_whole(folder / name, data)
    return {
        "file": name,
        "name": f"{picture.sample.label}/{picture.sample.path.name}",
        "score": picture.detection.pred_score,
        "p_value": picture.detection.p_value,
        "verdict": picture.detection.verdict,
        "data": base64.b64encode(data).decode("ascii"),
    }


def _histogram(scores: np.ndarray, anomalous: np.ndarray, threshold: float) -> Figure:
    figure, axes = _figure("score", "images")
    edges = np.histogram_bin_edges(scores, bins=40)
    axes.hist(scores[~anomalous], edges, alpha=0.6, label="normal", color="#2a7f62")
    axes.hist(scores[anomalous], edges, alpha=0.6, label="anomalous", color="#c8553d")
    axes.axvline(threshold, color="black", linestyle="--", label="threshold")
    axes.legend()
    return figure


def _roc(scores: np.ndarray, anomalous: np.ndarray, auroc: float) -> Figure:
    figure, axes = _figure("false alarms", "recall")
    false_alarms, recall, _ = roc_curve(anomalous, scores)
    axes.plot(false_alarms, recall, color="#30638e", label=f"AUROC {auroc:.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.legend(loc="lower right")
    return figure


def _trade_off_picture(points: list[dict[str, Any]]) -> str | None:
    """Draw recall on synthetic defects over false alarms; None where no defects were drawn."""
    if points[0]["synthetic_recall"] is None:
        return None
    figure, axes = _figure("good parts rejected of 1,000", "synthetic defects rejected")
    alarms = [point["false_alarms"] for point in points]
    mean = [expected["mean"] for expected in alarms]
    spread = [
        [max(0.0, expected["mean"] - expected["low"]) for expected in alarms],
        [max(0.0, expected["high"] - expected["mean"]) for expected in alarms],
    ]
    recall = [point["synthetic_recall"] for point in points]
    axes.errorbar(mean, recall, xerr=spread, marker="o", color="#30638e", ecolor="#b7c9d8")
    axes.set_ylim(-0.03, 1.03)
    return _as_png(figure)


def _figure(x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(
        figsize=(5, 3.2), layout="constrained"
    )  # no pyplot: no global state, no display
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _as_png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
