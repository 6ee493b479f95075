"""Reads stored results, in a thread of its own: the event loop never waits for a database."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from record.filters import Order
from record.result import Defect, Discussed, Result
from record.store import Filter, Page, Store
from service.errors import ResultUnknown

T = TypeVar("T")


class ResultReader:
    """Asks the store one question after the other; every method raises `StoreError`."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._store: Store | None = None
        self._pool = ThreadPoolExecutor(1, "results")

    async def ask(self, question: Callable[[Store], T]) -> T:
        """Put a question to the store, which is opened for the first one."""

        def work() -> T:
            if self._store is None:
                self._store = self._open_store()
            return question(self._store)

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def page(
        self, filter_: Filter, *, cursor: str | None, limit: int, order: Order = "newest"
    ) -> Page:
        """Read a page of results."""
        return await self.ask(
            lambda store: store.page(filter_, cursor=cursor, limit=limit, order=order)
        )

    async def find(self, result_id: str) -> Discussed:
        """Read one result with its feedback; raises `ResultUnknown`."""

        def look_up(store: Store) -> Discussed | None:
            result = store.find(result_id)
            return None if result is None else Discussed(result, store.feedback_on(result_id))

        # An id is letters and digits: anything else is no text that every database takes.
        is_id = result_id.isascii() and result_id.isalnum()
        discussed = await self.ask(look_up) if is_id else None
        if discussed is None:
            raise ResultUnknown(f"there is no result {result_id!r}; it may not be stored yet")
        return discussed

    async def repeated(self, idempotency_key: str) -> Result | None:
        """Read the result that was given under an idempotency key before."""
        return await self.ask(lambda store: store.repeated(idempotency_key))

    async def kept_normals(
        self, filter_: Filter, limit: int, thresholds: Mapping[str, float]
    ) -> list[Result]:
        """Read kept results that count as normal (`Store.kept_normals`)."""
        return await self.ask(lambda store: store.kept_normals(filter_, limit, thresholds))

    async def defects(self, model: str) -> list[Defect]:
        """Read all results that somebody called a defect, kept or not."""
        return await self.ask(lambda store: store.defects(model))

    async def last_feedback(self) -> int:
        """Read the number of what was said last of any result."""
        return await self.ask(lambda store: store.last_feedback())

    async def last_kinds(self, result_ids: Sequence[str]) -> dict[str, str]:
        """Read what was said last of results, by id."""
        return await self.ask(lambda store: store.last_kinds(result_ids))

    async def kept_latest(self, model: str, limit: int, camera: str | None = None) -> list[Result]:
        """Read the newest kept results, of one camera or of all."""
        return await self.ask(lambda store: store.kept_latest(model, limit, camera))

    def close(self) -> None:
        """Finish what is asked, and close the store."""
        self._pool.shutdown()
        if self._store is not None:
            self._store.close()
