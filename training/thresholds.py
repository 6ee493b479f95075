"""A threshold that somebody sets by hand, beside the other settings of a calibration."""

from dataclasses import dataclass, replace

from anomaly.calibration import Calibration, CalibrationSettings
from training.pipeline import Recalibration


@dataclass(frozen=True, slots=True)
class ThresholdByHand(Recalibration):
    """The settings of a calibration whose threshold may be set by hand; None: the rate says."""

    threshold: float | None = None

    def choices(self, before: Calibration | None) -> CalibrationSettings:
        """Read the region, as `Recalibration` does. Raises `CalibrationError`."""
        return replace(Recalibration.choices(self, before), threshold=self.threshold)
