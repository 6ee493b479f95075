"""What a model has seen: digests of the images it was trained and calibrated on, in its card.

A threshold from images that the model was trained on promises what it does not hold, whatever the
files are called. Models from before this record, and pretrained ones, cannot tell.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from anomaly.bundle import Bundle
from training.errors import DataError
from training.groups import check_groups
from training.identity import card_digests, is_cut, seen
from training.samples import Dataset, Sample, few_of, printable

_log = logging.getLogger(__name__)
_CARD = "images_seen"
_TRAINED = "trained"
_CALIBRATED = "calibrated"


def remember_training(
    bundle: Bundle, samples: Sequence[Sample], earlier: Bundle | None = None
) -> Bundle:
    """Note the training data in the card, and the model that the training started from."""
    before = "" if earlier is None else _card(earlier).get(_TRAINED, "")
    return _noted(bundle, _TRAINED, card_digests(samples, before))


def remember_calibration(
    bundle: Bundle, samples: Sequence[Sample], camera: str | None = None
) -> Bundle:
    """Note the calibration data in the card, for one camera or for all without their own."""
    what = _CALIBRATED if camera is None else f"{_CALIBRATED} {camera}"
    return _noted(bundle, what, card_digests(samples))


def held_out_of(bundle: Bundle, samples: Sequence[Sample], group_by: str | None) -> list[Sample]:
    """Leave out the images that the model was trained on, with a warning.

    Raises `DataError` where too few others are there to calibrate on.
    """
    card = trained_on(bundle)
    trained = {sample.path for sample in seen(samples, card)}
    if not trained:
        return list(samples)
    remaining = [sample for sample in samples if sample.path not in trained]
    names = few_of([printable(path.name) for path in sorted(trained)])
    if not remaining or is_cut(card):
        raise DataError(
            f"the model was trained on {len(trained)} of these {len(samples)} images ({names}): a "
            "threshold from them would promise too few false alarms. Calibrate on good parts that "
            "it has not seen"
        )
    _log.warning(
        "left out: %d of %d images, which the model was trained on (%s); a threshold from them "
        "would promise too few false alarms",
        len(trained),
        len(samples),
        names,
    )
    check_groups(remaining, group_by)
    return remaining


def trained_on(bundle: Bundle) -> str:
    """Return the digests of the images that a model was trained on, as its card holds them."""
    return _card(bundle).get(_TRAINED, "")


def candidates(dataset: Dataset) -> list[Sample]:
    """Return what can test a model: the test split, or all of a set without splits."""
    return [s for s in dataset.samples if s.split == "test" or "test" in s.drawn_into]


def to_test(bundle: Bundle, dataset: Dataset) -> tuple[list[Sample], int]:
    """Return the test images, and how many of them the model has seen, with a warning.

    Of a set without splits those are left out, unless no good part would remain.
    """
    everything = candidates(dataset)
    seen_paths = {sample.path for sample in seen(everything, "".join(_card(bundle).values()))}
    unseen = [s for s in everything if s.path not in seen_paths or not s.drawn_into]
    if seen_paths and any(sample.is_normal for sample in unseen):
        tested = unseen
    else:
        tested = everything if not seen_paths else dataset.select("test")
    if left_out := len(everything) - len(tested):
        _log.warning("left out: %d images that the model was trained or calibrated on", left_out)
    repeated = [printable(sample.name) for sample in tested if sample.path in seen_paths]
    if repeated:
        _log.warning(
            "%d of %d test images are ones the model was trained or calibrated on (%s): "
            "figures flatter it",
            len(repeated),
            len(tested),
            few_of(repeated),
        )
    return tested, len(repeated)


def _card(bundle: Bundle) -> dict[str, str]:
    card: dict[str, str] = bundle.card.get(_CARD, {})
    return card


def _noted(bundle: Bundle, what: str, digests: str) -> Bundle:
    noted = _card(bundle) | {what: digests}
    return replace(bundle, card=bundle.card | {_CARD: noted})
