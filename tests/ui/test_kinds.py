"""Kinds of defects on the page: confirmed by one key, named region by region, and ruled on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from tests.ui.conftest import Line, LineStart, Visitor
from tests.ui.test_review import shown

KINDS = {
    "model": "tiny",
    "version": "0123456789ab",
    "weights": "f" * 64,
    "unknown_below": 0.1,
    "fitted_at": "2026-11-28T10:00:00Z",
    "kinds": [
        {"kind": "dust", "examples": 24, "parts": 12, "rule": "none", "same_as": None},
        {"kind": "scrach", "examples": 1, "parts": 1, "rule": "none", "same_as": None},
        {"kind": "scratch", "examples": 12, "parts": 9, "rule": "warn", "same_as": None},
    ],
    "similar": [{"kind": "scrach", "like": "scratch", "ratio": 0.92}],
    "left_out": 3,
    "left_out_because": ["3 parts: nothing is kept of them"],
}
_SHAPE = {"area_px": 60, "centroid": [20.0, 20.0], "peak": [20, 20]}
REGIONS = [
    _SHAPE | {"bbox": [40, 40, 12, 12], "peak_score": 9.0, "kind": "scratch", "kind_p": 0.6},
    _SHAPE | {"bbox": [5, 70, 8, 6], "peak_score": 7.0, "kind": "dust", "kind_p": 0.3},
    _SHAPE | {"bbox": [80, 5, 8, 6], "peak_score": 5.0, "kind": "unknown", "kind_p": 0.01},
]


def answer_with_kinds(page: Page, said: list[dict[str, Any]], notes: list[str]) -> None:
    """Let the queue's parts have three regions of known kinds, and note what is said of them."""

    def queue(route: Route) -> None:
        answer = route.fetch()
        document = answer.json()
        for part in document["results"]:
            part["regions"] = REGIONS
        route.fulfill(response=answer, json=document)

    def feedback(route: Route) -> None:
        said.append(json.loads(route.request.post_data or "{}"))
        route.fulfill(status=201, json=said[-1] | {"notes": notes if len(said) == 1 else []})

    page.route("**/v1/review?*", queue)
    page.route("**/feedback", feedback)
    page.route("**/v1/models/tiny/kinds", lambda route: route.fulfill(json=KINDS))


@pytest.fixture
def rejected(line_start: LineStart, models: Path) -> Line:
    running = line_start(models)
    running.send(3, defects=3)
    return running


def test_what_was_found_is_confirmed_by_one_key(visitor: Visitor, rejected: Line) -> None:
    page = visitor.open("about:blank")
    said: list[dict[str, Any]] = []
    answer_with_kinds(page, said, ["'scrach' is new; 'scratch' has 12 examples"])
    page.goto(f"{rejected.url}/ui/#/review")
    expect(page.get_by_role("button", name="Found to be scratch?")).to_be_visible()
    expect(page.locator(".region-label").nth(2)).to_have_text("3 unknown")
    page.keyboard.press("k")
    expect(page.get_by_text("1 judged here")).to_be_visible()
    assert said == [{"kind": "confirmed_defect", "defect": "scratch"}]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    dust = page.get_by_role("button", name="Place 2 dust")
    expect(dust).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("k")
    expect(page.get_by_text("2 judged here")).to_be_visible()
    assert said[1] == {"kind": "confirmed_defect", "defect": "dust", "regions": [1]}
    page.locator(".region-label").nth(2).click()  # a mouse may choose by the label
    expect(page.get_by_text("It is like no kind that was named so far.")).to_be_visible()
    page.get_by_role("button", name="Place 1").click()
    page.keyboard.press("k")
    expect(page.get_by_text("3 judged here")).to_be_visible()
    assert said[2] == {"kind": "confirmed_defect", "defect": "scratch", "regions": [0, 2]}


def test_a_misspelt_name_is_corrected_by_one_click(visitor: Visitor, rejected: Line) -> None:
    page = visitor.open("about:blank")
    said: list[dict[str, Any]] = []
    answer_with_kinds(page, said, ["'scrach' is new; 'scratch' has 12 examples"])
    page.goto(f"{rejected.url}/ui/#/review")
    page.get_by_label("New kind of defect").fill("scrach")
    page.keyboard.press("Enter")
    first = shown(page)
    page.get_by_role("button", name="1 scrach", exact=True).click()
    page.get_by_role("button", name="It is “scratch”").click()
    expect(page.get_by_text("It counts as “scratch”.")).to_be_visible()
    assert [entry["defect"] for entry in said] == ["scrach", "scratch"]
    expect(page.get_by_role("button", name="1 scratch", exact=True)).to_be_visible()
    assert shown(page) != first


def test_named_parts_name_the_next_one(
    visitor: Visitor, line_start: LineStart, models: Path
) -> None:
    running = line_start(models)
    running.send(6, defects=6)
    for answer in running.answers:
        said = {"kind": "confirmed_defect", "defect": "scratch"}
        running.post(f"/v1/results/{answer['result_id']}/feedback", said)
    page = visitor.open(f"{running.url}/ui/#/kinds/tiny")
    row = page.get_by_role("row", name=re.compile("scratch"))
    for _ in range(50):
        if row.count():
            break
        page.wait_for_timeout(200)
        page.reload()
    running.send(1, defects=1, first=9)
    page.goto(f"{running.url}/ui/#/parts/{running.answers[-1]['result_id']}")
    places = page.get_by_role("heading", name="What it looks like")
    expect(places).to_be_visible()
    page.goto(f"{running.url}/ui/#/review")
    expect(page.get_by_role("button", name="Found to be scratch?")).to_be_visible()


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("de", "dark")])
def test_a_rule_is_set_with_a_reason(
    visitor: Visitor, line: Line, language: str, scheme: str
) -> None:
    page = visitor.open("about:blank", language=language, scheme=scheme, size="phone")
    asked: list[dict[str, Any]] = []

    def ruled(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or "{}"))
        route.fulfill(json=KINDS["kinds"][0])  # type: ignore[index]

    page.route("**/v1/models/tiny/kinds", lambda route: route.fulfill(json=KINDS))
    page.route("**/v1/models/tiny/kinds/dust", ruled)
    page.goto(f"{line.url}/ui/#/kinds/tiny")
    page.get_by_role("row", name=re.compile("dust")).get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    assert faults(page) == []
    dialog.get_by_role("radio").nth(2).check()
    submit = dialog.locator("button[type=submit]")
    expect(submit).to_be_disabled()
    dialog.locator("input[maxlength='1000']").fill("washed off later")
    submit.click()
    expect(dialog).to_have_count(0)
    assert asked == [{"rule": "ignore", "same_as": None, "reason": "washed off later"}]
    expect(page.locator(".similar")).to_contain_text("scrach")
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def faults(page: Page) -> list[object]:
    violations = Axe().run(page).response["violations"]
    return [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in violations]
