"""Every error this package raises on purpose, each with a stable code.

    AnomalyError
    ├── ImageError                 one image cannot be used
    │   ├── EmptyImage             image_empty
    │   ├── UnsupportedFormat      image_unsupported
    │   ├── CorruptImage           image_corrupt
    │   ├── ImageTooSmall          image_too_small
    │   └── ImageTooLarge          image_too_large
    ├── ShapeError                 tensor_shape
    ├── ConfigError                config_invalid
    ├── CalibrationError           calibration_impossible
    │   └── RoiInvalid             roi_invalid
    ├── ExportFailed               export_failed
    ├── OutputRefused              output_refused
    ├── ScoreNotFinite             score_not_finite
    └── ModelError                 a model folder cannot be used
        ├── ModelNotFound          model_not_found
        ├── ModelCorrupt           model_corrupt
        ├── ModelSchemaUnknown     model_schema_unknown
        ├── ModelOfOtherKind       model_other_kind
        ├── ModelUncalibrated      model_uncalibrated
        └── ModelNotSaved          model_not_saved

Codes are part of the wire contract: they are never renamed.
"""

from typing import ClassVar


class AnomalyError(Exception):
    """Base of all errors of this package; `code` is stable, the message says what to do next."""

    code: ClassVar[str] = "anomaly_error"


class ImageError(AnomalyError):
    """One image cannot be used."""

    code = "image_invalid"


class EmptyImage(ImageError):
    """No bytes at all."""

    code = "image_empty"


class UnsupportedFormat(ImageError):
    """The bytes are not a JPEG, PNG, BMP or TIFF image."""

    code = "image_unsupported"


class CorruptImage(ImageError):
    """The header is an image's, the rest is truncated or damaged."""

    code = "image_corrupt"


class ImageTooSmall(ImageError):
    """A side is shorter than the smallest that can be inspected."""

    code = "image_too_small"


class ImageTooLarge(ImageError):
    """More pixels than the limit; refused before decoding."""

    code = "image_too_large"


class ShapeError(AnomalyError):
    """A tensor has another shape than the function wants."""

    code = "tensor_shape"


class ConfigError(AnomalyError):
    """A configuration value is unknown or impossible."""

    code = "config_invalid"


class CalibrationError(AnomalyError):
    """The calibration images cannot give what was asked of them."""

    code = "calibration_impossible"


class RoiInvalid(CalibrationError):
    """The region of interest cannot be read, or leaves nothing to inspect."""

    code = "roi_invalid"


class ExportFailed(AnomalyError):
    """The model cannot be written as a graph, or the graph does not compute the same."""

    code = "export_failed"


class OutputRefused(AnomalyError):
    """What lies where something is to be written is not ours; nothing was changed."""

    code = "output_refused"


class ScoreNotFinite(AnomalyError):
    """The model gave no number: of such a part nothing can be said, least of all OK."""

    code = "score_not_finite"


class ModelError(AnomalyError):
    """A model folder cannot be used."""

    code = "model_invalid"


class ModelNotFound(ModelError):
    """There is no model at this place."""

    code = "model_not_found"


class ModelCorrupt(ModelError):
    """A file of the model is missing, damaged or does not give its golden scores."""

    code = "model_corrupt"


class ModelSchemaUnknown(ModelError):
    """The manifest was written by another version of Maskline."""

    code = "model_schema_unknown"


class ModelOfOtherKind(ModelError):
    """The model finds anomalies where one of labels belongs, or the other way round."""

    code = "model_other_kind"


class ModelUncalibrated(ModelError):
    """The model has no calibration, so its scores have no meaning yet."""

    code = "model_uncalibrated"


class ModelNotSaved(ModelError):
    """Writing the model failed; what stood there before is untouched."""

    code = "model_not_saved"


def require_shape(name: str, actual: tuple[int, ...], expected: str, *, ok: bool) -> None:
    """Raise `ShapeError` naming the wanted and the found shape unless `ok`."""
    if not ok:
        raise ShapeError(f"{name}: wanted {expected}, found {tuple(actual)}")
