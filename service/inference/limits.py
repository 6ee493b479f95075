"""Rules of the batcher: how many may wait, what fits in a batch, how often it may break off."""

import time
from collections import deque

_RECOVER_AFTER = 64  # good batches in a row before a lowered limit rises by an eighth
_CRASHES, _WITHIN_S = 3, 60.0
_LEAST_ROOM, _CALM_S = 16, 5.0


class Room:
    """How many may wait: a whole queue for a burst, a quarter (at least 16) once it has been full.

    A queue that stays full holds no burst any more, it makes everybody late (Nichols and Jacobson
    2012, "Controlling queue delay"). Its room is whole again when nobody was refused for five
    seconds.
    """

    def __init__(self, limit: int) -> None:
        self._most_waiting = limit
        self._low_mark = max(min(limit, _LEAST_ROOM), limit // 4)
        self._short_until = 0.0

    def has_room(self, waiting: int) -> bool:
        """Whether one more may wait beside so many; False counts as a refusal."""
        now = time.monotonic()
        if waiting < (self._low_mark if now < self._short_until else self._most_waiting):
            return True
        self._short_until = now + _CALM_S
        return False


class CostLimit:
    """How many work items a batch may hold: halved when one did not fit, recovering slowly."""

    def __init__(self, limit: int) -> None:
        self._highest = limit
        self._good = 0
        self.value = limit

    def shrink(self, cost: int) -> bool:
        """Halve the limit after a batch of this cost did not fit; False where it stays at 1."""
        before = self.value
        self.value = max(1, min(self.value, cost) // 2)
        self._good = 0
        return self.value < before

    def succeeded(self, cost: int) -> bool:
        """Count a batch that fitted; True where that raised the limit.

        Only batches of at least half the limit count: small ones prove nothing.
        """
        if self.value == self._highest or 2 * cost < self.value:
            return False
        self._good += 1
        if self._good < _RECOVER_AFTER:
            return False
        self._good = 0
        self.value = min(self._highest, self.value + max(1, self.value // 8))
        return True


class CrashGuard:
    """Remembers when inference broke off; three times within a minute is hopeless."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_CRASHES)

    def is_hopeless(self) -> bool:
        """Count one more time it broke off."""
        self._times.append(time.monotonic())
        return len(self._times) == _CRASHES and self._times[-1] - self._times[0] < _WITHIN_S
