"""A budget of bytes for all that is in flight: bodies, and the pixels that are made of them.

Counting requests bounds memory only as far as each is small. Nothing waits here: what does not fit
is refused with 429, so that whoever sends knows, and what was taken is given back however a request
ends. A body counts as it arrives; an announced length takes nothing, else a few heads alone would
lock everybody out. For a moment more is held than is counted: a body that is put together or parsed
is there twice.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import BudgetSpent, OverBudget

_BULK_SHARE = 0.5  # batches leave the other half to the line
_RETRY_S = 1.0


class Budget:
    """Bytes that all requests together may hold; safe to use from any thread."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.bulk_bytes = int(total_bytes * _BULK_SHARE)
        self._lock = threading.Lock()
        self._taken_bytes = 0
        self._bulk_taken = 0

    @property
    def taken_bytes(self) -> int:
        """Bytes that are held now; more than `total_bytes` while something is overdrawn."""
        return self._taken_bytes

    @contextmanager
    def open(self, *, bulk: bool = False) -> Iterator["Charge"]:
        """Begin a charge that the block's end gives back; bulk may take half of the budget."""
        charge = Charge(self, bulk=bulk)
        try:
            yield charge
        finally:
            self._move(-charge.taken_bytes, bulk=bulk)

    def check(self, wanted_bytes: int, *, bulk: bool, held_bytes: int = 0) -> None:
        """Raise `BudgetSpent` if so many bytes do not fit now, `OverBudget` if they never do."""
        limit = self.bulk_bytes if bulk else self.total_bytes
        if held_bytes + wanted_bytes > limit:
            raise OverBudget(
                f"{held_bytes + wanted_bytes} bytes at once are more than the {limit} that one "
                "request may hold; send less at once, or raise MASKLINE_MAX_IN_FLIGHT_MB"
            )
        if self._taken_bytes + wanted_bytes > self.total_bytes or (
            bulk and self._bulk_taken + wanted_bytes > self.bulk_bytes
        ):
            raise BudgetSpent(
                "other requests hold all the memory that bodies and images may have; try again "
                "shortly",
                _RETRY_S,
            )

    def _take(self, charge: "Charge", wanted_bytes: int) -> None:
        with self._lock:
            self.check(wanted_bytes, bulk=charge.bulk, held_bytes=charge.taken_bytes)
            self._count(wanted_bytes, bulk=charge.bulk)
            charge.taken_bytes += wanted_bytes

    def _move(self, change_bytes: int, *, bulk: bool) -> None:
        with self._lock:
            self._count(change_bytes, bulk=bulk)

    def _count(self, change_bytes: int, *, bulk: bool) -> None:
        self._taken_bytes += change_bytes
        if bulk:
            self._bulk_taken += change_bytes


class Charge:
    """What one request has taken of a budget."""

    def __init__(self, budget: Budget, *, bulk: bool) -> None:
        self._budget = budget
        self.bulk = bulk
        self.taken_bytes = 0

    def add(self, wanted_bytes: int) -> None:
        """Take more; raises `BudgetSpent` or `OverBudget`, and takes nothing then."""
        self._budget._take(self, wanted_bytes)

    def overdraw(self, wanted_bytes: int) -> None:
        """Take more even where there is nothing left: for the end of work that is nearly done."""
        self._budget._move(wanted_bytes, bulk=self.bulk)
        self.taken_bytes += wanted_bytes

    def check(self, expected_bytes: int) -> None:
        """Raise where so many more bytes would not fit now; takes nothing."""
        self._budget.check(expected_bytes, bulk=self.bulk, held_bytes=self.taken_bytes)
