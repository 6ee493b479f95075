"""What folders and labels are called: which names mean a good part, a defect, a split, a mask."""

from training.errors import DataError
from training.samples import NORMAL

_NORMAL_NAMES = (
    "good ok okay io normal nominal defect_free no_defect nodefect non_defective nondefective "
    "no_anomaly anomaly_free flawless faultless intact undamaged healthy pass passed gut fine "
    "goods normals good_part good_parts good_image good_images ok_parts normal_parts normal_images "
    "non_defect defectfree without_defect"
)
_NORMAL = frozenset(_NORMAL_NAMES.split())
_DEFECTIVE_NAMES = (
    "ng nok ko nio bad defect defects defective anomaly anomalies anomalous abnormal fault faults "
    "faulty fail failed reject rejected rejects scrap damaged broken not_good notgood not_ok notok "
    "unhealthy schlecht"
)
_DEFECTIVE = frozenset(_DEFECTIVE_NAMES.split())
_EITHER_NAMES = "positive negative pos neg true false"
_EITHER = frozenset(_EITHER_NAMES.split())
_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
    "test_public": "test",  # MVTec AD 2
}
_TRUTH = frozenset(["ground_truth", "groundtruth", "gt"])
_MASKS_NAMES = "mask masks label labels annotation annotations segmentation segmentations"
_MASKS = _TRUTH | frozenset(_MASKS_NAMES.split())


def _folded(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_").replace(".", "")


def is_normal_name(name: str) -> bool:
    """Whether a folder or label of this name holds good parts; 0 is normal as anomalib has it."""
    return _folded(name) in _NORMAL or name.strip() == "0"


def is_defect_name(name: str) -> bool:
    """Whether a folder of this name is known to hold defects, whatever else lies beside it."""
    return _folded(name) in _DEFECTIVE


def is_unclear_name(name: str) -> bool:
    """Whether some use this name for good parts and others for defects."""
    return _folded(name) in _EITHER


def is_mask_name(name: str) -> bool:
    """Whether a folder of this name holds ground truth."""
    return _folded(name) in _MASKS


def is_truth_name(name: str) -> bool:
    """Whether a folder of this name holds ground truth and cannot be anything else."""
    return _folded(name) in _TRUTH


def split_of(name: str) -> str | None:
    """Return the split that a folder or a manifest means by this name."""
    return _SPLITS.get(_folded(name))


def label_of(name: str, where: str) -> str:
    """Return `good` for every name of a good part, any other name as it is.

    Raises `DataError` for words that some use for good parts and others for defects.
    """
    if is_unclear_name(name):
        raise DataError(
            f"{where} is called {name!r}, which some use for good parts and others for defects; "
            "call it 'good', or by the kind of defect"
        )
    return NORMAL if is_normal_name(name) else name
