"""Outside values that the store takes as they are: labels, keys, moments, what people write."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, Field

Label = Annotated[str, Field(max_length=128, pattern=r"^[\w.:/@+ -]*$")]
# Names a folder anywhere: no separator, no leading dot.
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_DAY = timedelta(days=1)  # any database may show a moment in any zone
_FIRST = datetime.min.replace(tzinfo=UTC) + _DAY
_LAST = datetime.max.replace(tzinfo=UTC) - _DAY


def _in_utc(value: datetime) -> datetime:
    """Bring a moment to UTC; one without a zone is UTC."""
    try:
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or not _FIRST <= moment <= _LAST:
        raise ValueError("no moment that can be stored; want one within the years 1 to 9999 in UTC")
    return moment


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("text has no NUL characters")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError(
            "a blank key would be shared by all parts; leave it out, or give each part one of "
            "its own"
        )
    return value


IdempotencyKey = Annotated[Label, AfterValidator(_not_blank)]
Moment = Annotated[datetime, AfterValidator(_in_utc)]
Text = Annotated[str, Field(max_length=1000), AfterValidator(_without_nul)]
