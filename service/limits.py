"""Small rules of the batcher: what fits in one batch, how often it may break off, what overload is."""

import time
from collections import deque

_RECOVER_AFTER = 64  # good batches in a row before a lowered limit rises by an eighth
_CRASHES, _WITHIN_S = 3, 60.0
_STEP, _STEPS = 8, 6  # overload is looked for over so many steps of so many requests done
_EXCESS = 1.2  # requests offered for each one done


class CostLimit:
    """How many work items a batch may hold: halved when one did not fit, recovering slowly."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._good = 0
        self.value = most

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
        if self.value == self._most or 2 * cost < self.value:
            return False
        self._good += 1
        if self._good < _RECOVER_AFTER:
            return False
        self._good = 0
        self.value = min(self._most, self.value + max(1, self.value // 8))
        return True


class CrashGuard:
    """Remembers when inference broke off; three times within a minute is hopeless."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_CRASHES)

    def is_hopeless(self) -> bool:
        """Count one more time it broke off."""
        self._times.append(time.monotonic())
        return len(self._times) == _CRASHES and self._times[-1] - self._times[0] < _WITHIN_S


class Overload:
    """Whether more requests are offered than can be done, for long and not in one burst.

    Counted is what is offered, refused or not, while eight requests are done, six times; the time with
    most is left out. So a burst, and clients that each wait for their answer, however many, are no
    overload: they can wait. It begins where a fifth more was offered than done and is over when the
    queue is empty.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int]] = deque(maxlen=_STEPS)
        self._offered = self._done = 0
        self.is_on = False

    def offered(self) -> None:
        """Count a request that asked to be let in."""
        self._offered += 1

    def done(self, count: int) -> None:
        """Count requests that have ended, and look."""
        self._done += count
        if self._done < _STEP:
            return
        self._steps.append((self._offered, self._done))
        self._offered = self._done = 0
        if len(self._steps) == _STEPS:
            steady = sorted(self._steps, key=lambda step: step[0] - step[1])[:-1]
            offered, done = map(sum, zip(*steady, strict=True))
            self.is_on = self.is_on or offered > _EXCESS * done

    def over(self) -> None:
        """Nothing waits: begin anew."""
        self._steps.clear()
        self._offered = self._done = 0
        self.is_on = False
