"""Errors of the pipeline, each with a stable code; the message says what to do next.

AnomalyError
└── TrainingError
    ├── DataError              data_invalid
    ├── RecipeError            recipe_invalid
    ├── ResumeError            resume_impossible
    ├── TrainingDiverged       training_diverged
    ├── OutOfMemory            out_of_memory
    ├── WeightsError           weights_invalid
    └── NotWritten             file_not_written
"""

from anomaly.errors import AnomalyError


class TrainingError(AnomalyError):
    """Base of the pipeline's errors."""

    code = "training_error"


class DataError(TrainingError):
    """The images at hand cannot be used as they are."""

    code = "data_invalid"


class RecipeError(TrainingError):
    """A recipe or an override has an unknown key or an impossible value."""

    code = "recipe_invalid"


class ResumeError(TrainingError):
    """The checkpoint belongs to another run."""

    code = "resume_impossible"


class TrainingDiverged(TrainingError):
    """The loss is no longer a finite number."""

    code = "training_diverged"


class OutOfMemory(TrainingError):
    """A step does not fit the device's memory."""

    code = "out_of_memory"


class WeightsError(TrainingError):
    """A file of pretrained weights is not what it should be."""

    code = "weights_invalid"


class NotWritten(TrainingError):
    """A file could not be written; what stood there before is untouched."""

    code = "file_not_written"
