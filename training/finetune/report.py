"""Figures of labels as text for a terminal."""

from collections.abc import Mapping
from typing import Any

from training.samples import printable

_WIDEST = 24
_FIGURES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "AP": "AP (COCO)",
    "AP50": "AP at overlap .5",
    "AP50_any_kind": "the same, any kind",
    "mean_iou": "mean IoU of kinds",
    "any_iou": "IoU, any kind",
}


def summary(training: Mapping[str, Any]) -> str:
    """Lay out a card's figures on the test split, beside those from nothing where there are any."""
    columns = {"tuned": training["test"]}
    columns |= {name: card["test"] for name, card in training.get("beside", {}).items()}
    if training["test"] is None:
        return "no test images: nothing is said of how good it is"
    names = "".join(f"{name:>10}" for name in columns)
    lines = [f"{'':<{_WIDEST}}{'images':>8}{names}"]
    for key, text in _FIGURES.items():
        if key in training["test"]:
            figures = "".join(f"{column[key]:>10.3f}" for column in columns.values())
            lines.append(f"{text:<{_WIDEST}}{'':>8}{figures}")
    for kind, images in training["test"].get("images", {}).items():
        recalls = (column["recall"].get(kind) for column in columns.values())
        figures = "".join(f"{'–':>10}" if r is None else f"{r:>10.3f}" for r in recalls)
        lines.append(f"{'recall of ' + printable(kind)[:14]:<{_WIDEST}}{images:>8}{figures}")
    if "confusion" in training["test"]:
        lines += _confusion(training["test"])
    return "\n".join(lines)


def _confusion(figures: Mapping[str, Any]) -> list[str]:
    kinds = [printable(kind)[:14] for kind in figures["classes"]]
    lines = ["", f"{'is / was taken for':<{_WIDEST}}" + "".join(f"{kind:>15}" for kind in kinds)]
    for kind, row in zip(kinds, figures["confusion"], strict=True):
        lines.append(f"{kind:<{_WIDEST}}" + "".join(f"{count:>15}" for count in row))
    return lines
