"""Stores what people say of results, and seals into the audit trail what changes the cases."""

import asyncio
from datetime import UTC, datetime

from record.audit import Audit
from record.keep import Keeper
from record.result import Feedback, Result
from service.errors import AuditUnwritable, FeedbackContradicts
from service.events import Publish, unheard
from service.feedback import Change, FeedbackIn, Speaker, change_of
from service.logs import ACTOR
from service.results.reader import ResultReader


class FeedbackLog:
    """Takes feedback; `keeper` is None where no images are kept."""

    def __init__(
        self,
        reader: ResultReader,
        keeper: Keeper | None,
        audit: Audit,
        *,
        publish: Publish = unheard,
    ) -> None:
        self._reader = reader
        self._keeper = keeper
        self._audit = audit
        self._publish = publish
        self._turn = asyncio.Lock()

    async def add(
        self, result_id: str, feedback: FeedbackIn, author: str | None, *, is_admin: bool
    ) -> Feedback:
        """Store what somebody found who looked at the part.

        What changes the cases that a new version is held against is sealed into the audit trail
        first; only an admin takes a confirmed defect back, or soon after who said it. Raises
        `FeedbackContradicts`, `RoleInsufficient`, `ResultUnknown`, `AuditUnwritable` or
        `StoreError`.
        """
        is_there = await self._pin((await self._reader.find(result_id)).result)
        async with self._turn:  # so that what was said before is what is sealed as such
            discussed = await self._reader.find(result_id)
            speaker = Speaker(author, is_admin, datetime.now(UTC))
            change = change_of(discussed, feedback.kind, speaker, is_there=is_there)
            _check_regions(discussed.result, feedback.regions)
            if change.is_sealed:
                await self._seal(discussed.result, change)
            if change.is_given_up:
                await self._reader.ask(lambda store: store.nothing_kept(result_id))
            entry = Feedback(
                result_id=result_id,
                created_at=speaker.at,
                author=author,
                kind=feedback.kind,
                defect=feedback.defect,
                comment=feedback.comment,
                regions=feedback.regions,
            )
            stored = await self._reader.ask(
                lambda store: store.add_feedback(entry, after=change.after)
            )
        if stored is None:
            raise FeedbackContradicts(
                "somebody else spoke of this result just now; look at it again"
            )
        self._publish(
            "feedback",
            {
                "result_id": result_id,
                "kind": stored.kind,
                "defect": stored.defect,
                "author": stored.author,
            },
        )
        return stored

    async def _pin(self, result: Result) -> bool:
        """Keep what is kept of a result for good; False where it is gone."""
        if self._keeper is None or not result.kept:
            return True  # there is nothing that could be gone
        return await asyncio.to_thread(self._keeper.pin, result.result_id, result.inspected_at)

    async def _seal(self, result: Result, change: Change) -> None:
        details = {"model": result.model, **change.details}
        actor = ACTOR.get()
        try:
            await asyncio.to_thread(self._audit.add, "feedback", result.result_id, actor, **details)
        except OSError as error:
            raise AuditUnwritable(
                f"the audit trail cannot be written ({error.strerror}), so nothing is changed"
            ) from error


def _check_regions(result: Result, regions: list[int] | None) -> None:
    if regions is not None and max(regions) >= len(result.regions):
        raise FeedbackContradicts(
            f"region {max(regions)} is named, but {len(result.regions)} were found on this part, "
            "counted from 0"
        )
