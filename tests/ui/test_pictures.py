"""Draws docs/page.md's pictures: every view of the demo (`make page-pictures`)."""

import os
import time
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect

from cli.demo_line import send_in_background
from tests.ui.conftest import Line, LineStart, Visitor

DEMO = Path("maskline-demo")
OUT = os.environ.get("MASKLINE_PICTURES")
VIEWS = ("parts", "review", "whatif", "calibrate", "models", "train", "cameras", "help")

pytestmark = pytest.mark.skipif(OUT is None, reason="draws pictures where MASKLINE_PICTURES says")


def results(running: Line, query: str) -> list[dict[str, str]]:
    return running.get(f"/v1/results?{query}")["results"]  # type: ignore[return-value]


@pytest.fixture(scope="module")
def demo(line_start: LineStart) -> Line:
    """The demo's service, with its parts sent and some of them judged."""
    running = line_start(DEMO / "models")
    send_in_background(DEMO / "parts", int(running.url.rpartition(":")[2]))
    for _ in range(600):
        if len(results(running, "limit=100")) >= 80:
            break
        time.sleep(0.2)
    kinds = ["scratch", "dent", "crack"]
    for number, part in enumerate(results(running, "verdict=NG&limit=9")):
        said = {"kind": "confirmed_defect", "defect": kinds[number % 3]}
        if number == 5:
            said = {"kind": "false_alarm", "comment": "Grease, wiped off"}
        url = f"{running.url}/v1/results/{part['result_id']}/feedback"
        httpx2.post(url, json=said).raise_for_status()
    return running


def draw(page: Page, name: str) -> None:
    assert OUT is not None
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(800)
    page.screenshot(path=Path(OUT) / f"page-{name}.jpg", type="jpeg", quality=82)


def test_every_view_has_its_picture(visitor: Visitor, demo: Line) -> None:
    page = visitor.open(f"{demo.url}/ui/")
    page.set_viewport_size({"width": 1280, "height": 800})
    for view in VIEWS:
        page.goto(f"{demo.url}/ui/#/{view}")
        expect(page.locator("main h1")).to_be_visible()
        if view == "whatif":
            expect(page.get_by_role("heading", name="Of 80 parts")).to_be_visible()
            page.get_by_role("spinbutton", name="Tried threshold").fill("8")
            page.keyboard.press("Enter")
            expect(page.get_by_text("Confirmed: the service counts the same")).to_be_visible()
        draw(page, view)


def test_a_part_says_why(visitor: Visitor, demo: Line) -> None:
    [part] = results(demo, "verdict=NG&feedback=none&limit=1")
    page = visitor.open(f"{demo.url}/ui/#/parts/{part['result_id']}")
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.get_by_role("button", name="Show what was expected").click()
    expect(page.get_by_text("what was expected", exact=True)).to_be_visible()
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    draw(page, "part")


def test_the_wall_at_night_in_german(visitor: Visitor, demo: Line) -> None:
    demo.send_files(sorted((DEMO / "parts/test/scratch").glob("*"))[:1], camera="left")
    page = visitor.open(f"{demo.url}/ui/#/wall?big=1", size="wall", language="de", scheme="dark")
    expect(page.get_by_role("article").first).to_be_visible()
    draw(page, "wall-big")


def test_a_phone_reviews(visitor: Visitor, demo: Line) -> None:
    page = visitor.open(f"{demo.url}/ui/#/review", size="phone")
    expect(page.get_by_role("button", name="Good part")).to_be_visible()
    draw(page, "phone")
