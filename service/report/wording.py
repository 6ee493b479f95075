"""Texts, numbers and moments in the reader's language and zone."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Literal
from zoneinfo import ZoneInfo

Language = Literal["en", "de"]
LANGUAGES: tuple[Language, ...] = ("en", "de")
_FEW_PERCENT = 0.1  # below this share, a second digit tells something


@cache
def texts_of(language: Language) -> dict[str, str]:
    """Return all texts of a language by key."""
    file = resources.files("service.report") / "texts" / f"{language}.json"
    texts: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return texts


@dataclass(frozen=True, slots=True)
class Wording:
    """Writes for people; what comes out is text, which the template escapes."""

    language: Language
    zone: ZoneInfo

    def text(self, key: str, /, **values: object) -> str:
        """Return a text; whole numbers in it are grouped."""
        filled = {k: self.integer(v) if isinstance(v, int) else v for k, v in values.items()}
        return texts_of(self.language)[key].format(**filled)

    def integer(self, number: int) -> str:
        """Write 12345 as 12,345 or 12.345."""
        return self._localised(f"{number:,}")

    def decimal(self, number: float | None, digits: int = 2) -> str:
        """Write a number with so many digits behind the point; a dash for None."""
        return "–" if number is None else self._localised(f"{number:,.{digits}f}")

    def share(self, share: float | None, digits: int | None = None) -> str:
        """Write a share in percent; a dash for None."""
        if share is None:
            return "–"
        places = digits if digits is not None else 2 if 0 < share < _FEW_PERCENT else 1
        return self._localised(f"{100 * share:.{places}f}") + "\u00a0%"

    def milliseconds(self, seconds: float) -> str:
        """Write a duration."""
        return self._localised(f"{1000 * seconds:,.1f}") + "\u00a0ms"

    def moment(self, moment: datetime) -> str:
        """Write a date with its time of day."""
        return f"{self.day(moment)} {self.clock(moment)}"

    def day(self, moment: datetime) -> str:
        """Write a date."""
        local = moment.astimezone(self.zone)
        numbers = {"year": f"{local.year:04}", "month": f"{local.month:02}"}
        return texts_of(self.language)["date"].format(**numbers, day=f"{local.day:02}")

    def clock(self, moment: datetime) -> str:
        """Write a time of day."""
        return f"{moment.astimezone(self.zone):%H:%M}"

    def width(self, seconds: int) -> str:
        """Write how long a slice is."""
        for key, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
            if seconds >= size and not seconds % size:
                return self.text(f"width_{key}", count=seconds // size)
        return self.text("width_minutes", count=round(seconds / 60))

    def _localised(self, english: str) -> str:
        if self.language == "en":
            return english
        return english.translate(str.maketrans(",.", ".,"))
