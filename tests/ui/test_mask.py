"""The brush: what is drawn is what is sent, and nothing that was drawn is lost unasked."""

from pathlib import Path

import cv2
import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Locator, Page, expect

from tests.ui.conftest import Line, LineStart, Visitor
from tests.ui.test_review import shown


def mask_of(running: Line, part: str) -> NDArray[np.uint8] | None:
    """What the service keeps, (H, W); None where it keeps none."""
    answer = httpx2.get(f"{running.url}/v1/results/{part}/mask")
    if answer.status_code == 404:
        return None
    content = np.frombuffer(answer.content, np.uint8)
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_UNCHANGED), np.uint8)


@pytest.fixture(scope="module")
def rejected(line_start: LineStart, models: Path) -> Line:
    running = line_start(models)
    running.send(4, defects=4)
    return running


def draw(page: Page, *points: tuple[float, float]) -> None:
    """Draw a line through shares of the picture's sides."""
    box = page.locator(".mask-layer").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def test_what_is_drawn_is_sent_at_full_size(visitor: Visitor, rejected: Line) -> None:
    page = visitor.open("about:blank", size="wall")
    part = rejected.answers[0]["result_id"]
    page.goto(f"{rejected.url}/ui/#/parts/{part}")
    button(page, "B Draw the defect").click()
    page.get_by_role("slider", name="Width").fill("6")
    draw(page, (0.25, 0.5), (0.75, 0.5))
    draw(page, (0.5, 0.1), (0.5, 0.9))
    button(page, "Undo the stroke").click()
    expect(page.get_by_text("Not saved yet")).to_be_visible()
    button(page, "Save the mask").click()
    expect(page.get_by_text("The mask is saved.")).to_be_visible()
    kept = np.frombuffer(httpx2.get(f"{rejected.url}/v1/results/{part}/image").content, np.uint8)
    mask = mask_of(rejected, part)
    assert mask is not None
    height, width = mask.shape
    assert (height, width) == cv2.imdecode(kept, cv2.IMREAD_UNCHANGED).shape[:2]  # type: ignore[union-attr]
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() + 0.5 - height / 2) < 1
    assert rows.max() - rows.min() + 1 == pytest.approx(6, abs=1)
    ends = pytest.approx((width / 4 - 3, 3 * width / 4 + 2), abs=2)
    assert (columns.min(), columns.max()) == ends
    button(page, "Erase").click()
    page.get_by_role("slider", name="Width").fill("12")
    draw(page, (0.25, 0.5), (0.75, 0.5))
    button(page, "Save the mask").click()
    expect(page.get_by_text("Draw over the defect")).to_be_visible()
    assert mask_of(rejected, part) is None


def test_the_found_regions_are_taken_without_a_brush(visitor: Visitor, rejected: Line) -> None:
    page = visitor.open("about:blank")
    part = rejected.answers[1]["result_id"]
    page.goto(f"{rejected.url}/ui/#/parts/{part}")
    expect(button(page, "B Draw the defect")).to_be_visible()
    page.keyboard.press("b")
    button(page, "Take the found regions").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("The mask is saved.")).to_be_visible()
    mask = mask_of(rejected, part)
    assert mask is not None
    page.reload()
    page.wait_for_function(
        """(count) => { const shown = document.querySelector('.mask-layer');
        if (!shown) return false;
        const copy = new OffscreenCanvas(shown.width, shown.height);
        const context = copy.getContext('2d', { willReadFrequently: true });
        context.drawImage(shown, 0, 0);
        const { data } = context.getImageData(0, 0, shown.width, shown.height);
        return data.filter((value, at) => at % 4 === 3 && value === 255).length === count; }""",
        arg=int(np.count_nonzero(mask)),
    )
    page.keyboard.press("b")
    page.once("dialog", lambda dialog: dialog.accept())
    button(page, "Delete the mask").click()
    expect(button(page, "Delete the mask")).to_have_count(0)
    assert mask_of(rejected, part) is None


def test_nothing_drawn_is_lost_unasked(visitor: Visitor, rejected: Line) -> None:
    page = visitor.open("about:blank")
    full = {"code": "storage_failed", "detail": "full"}
    page.route("**/mask", lambda route: route.fulfill(status=503, json=full), times=2)
    page.goto(f"{rejected.url}/ui/#/review")
    button(page, "B Draw the defect").click()
    expect(page.get_by_role("slider", name="Width")).to_be_visible()
    draw(page, (0.4, 0.4), (0.6, 0.6))
    button(page, "Save the mask").click()
    expect(page.get_by_text("What you drew is kept here")).to_be_visible()
    page.keyboard.press("d")  # would save it first, which fails
    expect(page.get_by_text("0 judged here")).to_be_visible()
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.get_by_role("link", name="Parts", exact=True).click()
    expect(page.get_by_text("Not saved yet")).to_be_visible()
    assert page.url.endswith("#/review")
    assert asked == ["What you drew is not saved. Leave without it?"]
    part = shown(page)
    page.keyboard.press("d")
    expect(page.get_by_text("1 judged here")).to_be_visible()
    mask = mask_of(rejected, part)
    assert mask is not None
    assert mask.any()
    page.wait_for_load_state("networkidle")
    assert all("503" in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()
