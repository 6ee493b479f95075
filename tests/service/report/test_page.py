import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from string import Formatter
from zoneinfo import ZoneInfo

import pytest

from record.audit import Audit
from record.result import Feedback
from record.store import Store
from service.report.maker import ReportRequest, report_of
from service.report.page import MARK, POLICY
from service.report.period import Period
from service.report.wording import LANGUAGES, Language, Wording, texts_of
from tests.record.test_store import NOON, result

HOSTILE = '<script>alert("1")</script> & \' "x" <b>😀</b>' + "é" * 80
PERIOD = Period(NOON, NOON + timedelta(days=1), ZoneInfo("Europe/Berlin"))


class Tags(HTMLParser):
    """Collects what a page is made of; raises where elements are not closed in order."""

    VOID = ("meta", "br", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'results.db'}")


def page(store: Store, language: Language = "en", audit: Audit | None = None) -> str:
    return report_of(store, None, audit, ReportRequest(period=PERIOD, language=language))


def filled(store: Store) -> None:
    parts = [
        result(n, inspected_at=NOON + timedelta(minutes=n), p_value=n % 100 / 100)
        for n in range(300)
    ]
    store.add([replace(p, timings={"inference": 0.0123}, lot="L-7") for p in parts])


def test_both_languages_have_the_same_texts() -> None:
    english, german = texts_of("en"), texts_of("de")
    assert english.keys() == german.keys()
    for key in english:
        names = [{n for _, n, _, _ in Formatter().parse(t[key]) if n} for t in (english, german)]
        assert names[0] == names[1], key
        assert german[key].strip() == german[key] != "", key


def test_every_text_is_used() -> None:
    folder = resources.files("service.report")
    files = [f for f in folder.iterdir() if f.name.endswith((".py", ".j2"))]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    prefixes = re.findall(r'"(\w+_)" ~|f"(\w+_)\{', source)
    for key in texts_of("en"):
        made = any(key.startswith(prefix) for pair in prefixes for prefix in pair if prefix)
        assert made or f'"{key}"' in source, key


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_full_page_is_whole_and_loads_nothing(store: Store, language: Language) -> None:
    filled(store)
    tags = Tags(page(store, language))
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    urls = [v for _, attrs in tags.seen for k, v in attrs.items() if k in ("src", "href")]
    assert urls == []
    assert ("html", {"lang": language}) in tags.seen
    policy = {"http-equiv": "Content-Security-Policy", "content": POLICY}
    assert ("meta", policy) in tags.seen
    assert not any(k.startswith("on") for _, attrs in tags.seen for k in attrs)
    identifiers = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    charts = [a for n, a in tags.seen if n == "svg" and a.get("role") == "img"]
    assert len(charts) == 4  # p-chart, Pareto, two cameras' drift
    assert all("aria-labelledby" in chart or "aria-label" in chart for chart in charts)
    assert MARK in page(store).encode()[:4096]


def test_numbers_and_times_are_written_as_the_language_does(store: Store) -> None:
    filled(store)
    english, german = (Tags(page(store, language)).text for language in LANGUAGES)
    for text, moment, duration in (
        (english, "2026-03-01 13:00", "12.3\u00a0ms"),
        (german, "01.03.2026 13:00", "12,3\u00a0ms"),
    ):
        assert moment in text  # noon in UTC, in Berlin's time
        assert duration in text
    wording = Wording("de", PERIOD.zone)
    assert wording.integer(1234567) == "1.234.567"
    assert wording.share(0.01234) == "1,23\u00a0%"
    assert Wording("en", PERIOD.zone).share(0.5) == "50.0\u00a0%"
    assert wording.decimal(None) == "–"


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_empty_period_says_so(store: Store, tmp_path: Path, language: Language) -> None:
    text = Tags(page(store, language, Audit(tmp_path))).text
    assert texts_of(language)["empty"] in text
    assert texts_of(language)["changes_none"] in text
    assert texts_of(language)["chart"] not in text


def test_hostile_names_are_text(store: Store, tmp_path: Path) -> None:
    parts = [
        result(
            n,
            inspected_at=NOON + timedelta(minutes=n),
            model=HOSTILE,
            camera=HOSTILE,
            lot=HOSTILE * 4,
            part_id=HOSTILE,
        )
        for n in range(60)
    ]
    store.add(parts)
    entry = Feedback(
        result_id=f"{0:032x}", created_at=NOON, kind="confirmed_defect", defect=HOSTILE
    )
    store.add_feedback(entry)
    audit = Audit(tmp_path)
    audit.add("activate", HOSTILE, HOSTILE, version=HOSTILE, forced_because="{0} {x!r}" + HOSTILE)
    now = datetime.now(UTC)
    lately = Period(NOON, now + timedelta(minutes=1), PERIOD.zone)
    request = ReportRequest(period=lately, camera=HOSTILE, lot=HOSTILE * 4, language="en")
    written = report_of(store, None, audit, request)
    tags = Tags(written)
    assert "<script" not in written
    assert "<b>😀" not in written
    assert tags.text.count(HOSTILE) >= 8
    assert "{0} {x!r}" in tags.text


def test_nobody_having_looked_is_said(store: Store) -> None:
    filled(store)
    text = Tags(page(store)).text
    assert "Nobody looked at any of the 100 NG parts" in text
    assert "Nobody looked at any of the 200 parts that passed" in text
    store.add_feedback(Feedback(result_id=f"{1:032x}", created_at=NOON, kind="confirmed_good"))
    text = Tags(page(store)).text
    assert "parts that passed: that no miss" not in text
    assert "among 1 of 200 passed parts looked at" in text


def test_a_bad_hour_is_marked_by_shape_and_word(store: Store) -> None:
    verdicts = ["NG" if 180 <= n < 210 or n % 20 == 0 else "OK" for n in range(480)]
    store.add(
        [
            result(n, inspected_at=NOON + timedelta(minutes=n), verdict=verdict)
            for n, verdict in enumerate(verdicts)
        ]
    )
    written = page(store)
    assert written.count('<path class="out"') == 3  # the point, and two in the legend
    assert "NG rate above its limits in 1 of" in written
    assert "above the limit" in written


def test_changes_of_the_period_are_listed_with_who_and_why(tmp_path: Path, store: Store) -> None:
    audit = Audit(tmp_path)
    audit.add("start", "flange", "service", version="v1", threshold=1.4189)
    audit.add("key_add", "line-3", "root", role="score")
    audit.add("activate", "flange", "ada", version="v2", forced_because="a scratch is allowed now")
    now = datetime.now(UTC)
    request = ReportRequest(
        period=Period(now - timedelta(hours=1), now + timedelta(hours=1), PERIOD.zone)
    )
    text = Tags(report_of(store, None, audit, request)).text
    assert "ada" in text
    assert "a scratch is allowed now" in text
    assert "threshold 1.42" in text
    assert "line-3" not in text
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write("{broken\n")
    text = Tags(report_of(store, None, audit, request)).text
    assert "ada" in text
    assert "audit trail is damaged" in text


def test_the_texts_are_json_without_markup() -> None:
    for language in LANGUAGES:
        assert "<" not in json.dumps(texts_of(language))
