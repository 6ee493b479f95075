"""What becomes of a trained model: it serves where it is the first of its name, else it waits."""

from dataclasses import dataclass
from pathlib import Path

from record.result import JsonObject
from service.errors import DefectsWouldPass
from service.inference.registry import Gate, Registry
from service.jobs.folders import Training


@dataclass(frozen=True, slots=True)
class Adoption:
    """Puts trained models among those of the service."""

    registry: Registry
    gate: Gate | None

    async def __call__(self, training: Training, model: Path) -> JsonObject:
        """Stage or activate a model; returns what a job says of it.

        Raises what `Registry.adopt` raises, or `AuditUnwritable`.
        """
        order, messages = training.order, []
        slot = await self.registry.adopt(
            order.model, model, job=training.job.id, data=order.data, recipe=order.recipe
        )
        if slot.active is None:
            try:
                await self.registry.activate(order.model, gate=self.gate)
            except DefectsWouldPass as error:
                messages.append(f"the model waits and does not serve: {error}")
        served = slot.staged or slot.active
        assert served is not None
        calibration = served.detector.calibration
        active = slot.active  # the watch may have staged the same version once more
        return {
            "model": order.model,
            "version": served.bundle.version,
            "is_serving": active is not None and active.bundle.version == served.bundle.version,
            "threshold": calibration.threshold,
            "false_alarm_rate": calibration.false_alarm_rate,
            "mode": calibration.mode,
            "training_images": served.bundle.card.get("training", {}).get("images"),
            "calibration_groups": calibration.images.groups,
            "messages": messages,
        }
