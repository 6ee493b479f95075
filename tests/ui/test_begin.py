"""From an empty folder to a first verdict, and trainings that are stopped or fail: on the page."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from service.jobs import process
from tests.conftest import normal_pixels, planted, png
from tests.service.routes.test_trainings import TINY
from tests.ui.conftest import Line, LineStart, Visitor

TRAINING_MS = 180_000  # seconds on a quiet machine
LASTING = {"optimiser.steps": 90_000, "run.checkpoint_every": 20, "run.log_every": 20}


@pytest.fixture
def empty(line_start: LineStart, tmp_path: Path) -> Iterator[Line]:
    """A service without any model; a training that it has begun ends with the test."""
    (tmp_path / "models").mkdir()
    running = line_start(tmp_path / "models", up_at="/health/live")
    yield running
    for folder in running.folder.glob("jobs/*"):
        process.send(folder, signal.SIGKILL)


def hurry(page: Page, **changes: float) -> None:
    """Let the page's trainings be tiny ones: its form has no settings for that."""

    def rewrite(route: Route) -> None:
        order = route.request.post_data_json
        route.continue_(post_data=order | {"recipe": "pixels", "settings": TINY | changes})

    page.route("**/v1/trainings", rewrite)


def unwritten(page: Page, times: int) -> None:
    """Let a part's map be asked for before it is written, as happens on a busy disk."""
    problem = {"code": "result_not_found"}
    page.route("**/map", lambda route: route.fulfill(status=404, json=problem), times=times)


def picture(name: str, pixels: np.ndarray) -> FilePayload:
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": png(pixels)}


def good_parts(count: int, first: int = 0) -> list[FilePayload]:
    return [picture(f"good {index}", normal_pixels(index)) for index in range(first, first + count)]


def shots(parts: int, times: int) -> list[FilePayload]:
    """Few parts, of which several pictures were taken that differ in one pixel."""
    pictures = []
    for part in range(parts):
        for shot in range(times):
            pixels = normal_pixels(part)
            pixels[0, shot] += 1
            pictures.append(picture(f"part {part} shot {shot}", pixels))
    return pictures


def step(page: Page) -> Locator:
    """Find the step that is to be taken now."""
    return page.locator(".steps > [aria-current=step]")


def training(page: Page) -> Locator:
    return page.get_by_role("region", name="Training of bracket")


def at_step(page: Page, heading: str, timeout: float | None = None) -> Locator:
    expect(step(page).locator("> h2")).to_contain_text(heading, timeout=timeout)
    return step(page)


def test_from_an_empty_folder_to_a_first_verdict(empty: Line, visitor: Visitor) -> None:
    assert httpx2.get(f"{empty.url}/health/ready").json()["code"] == "no_model"
    page = visitor.open(f"{empty.url}/ui/")
    hurry(page)
    now = at_step(page, "Good parts in")
    expect(page.get_by_role("heading", name="First steps")).to_be_visible()
    now.get_by_label("What is the product called?").fill("bracket")
    now.get_by_label("Choose pictures").set_input_files(good_parts(24))
    expect(now.get_by_text("24 new good parts are in.")).to_be_visible()
    expect(now.get_by_text("24 good parts in bracket")).to_be_visible()
    now.get_by_role("button", name="These are all: go on").click()

    now = at_step(page, "Train")
    now.get_by_role("button", name="Start training").click()
    expect(training(page).get_by_text("running", exact=True)).to_be_visible()
    expect(training(page).get_by_role("progressbar")).to_be_visible()

    now = at_step(page, "First verdict", TRAINING_MS)
    [model] = empty.get("/v1/models")["models"]  # type: ignore[misc]
    assert (model["name"], model["mode"]) == ("bracket", "estimated")
    promised = page.get_by_role("listitem").filter(has_text="What you can rely on")
    expect(promised).to_contain_text("Estimated: about 10 of 100 good parts rejected.")
    expect(promised).to_contain_text(f"{model['calibration_groups']} good parts were tested")
    expect(promised).to_contain_text("too few for a promise")

    unwritten(page, times=2)
    bad = picture("scratched", planted(normal_pixels(500), 60, 40, 16))
    now.get_by_label("Inspect a picture").set_input_files(bad)
    verdict = page.get_by_role("region", name="First verdict")
    expect(verdict.get_by_text("NG", exact=True)).to_be_visible()
    shown = verdict.get_by_role("img", name=re.compile("scratched"))
    expect(shown).to_be_visible()
    expect(shown).to_have_js_property("naturalWidth", 128)
    expect(verdict.locator(".regions > *").first).to_be_attached()  # the map has arrived as well
    expect(step(page)).to_have_count(0)  # nothing is left to do
    assert httpx2.get(f"{empty.url}/health/ready").status_code == 200

    verdict.get_by_role("link", name="See every camera's last part").click()
    expect(page.get_by_role("article").get_by_role("img", name="NG", exact=True)).to_be_visible()
    visitor.close()
    assert all("404" in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()


def test_a_training_is_stopped_and_goes_on(empty: Line, visitor: Visitor) -> None:
    page = visitor.open(f"{empty.url}/ui/#/train")
    hurry(page, **LASTING)
    page.get_by_label("To the set").fill("bracket")
    page.get_by_label("Choose pictures").set_input_files(good_parts(24))
    page.get_by_role("button", name="Start training").click()
    job = training(page)
    learning = re.compile(r"Learning what is normal · [\d,]+ of 90,000")
    expect(job.get_by_text(learning)).to_be_visible(timeout=TRAINING_MS)
    expect(job.get_by_text("running", exact=True)).to_be_visible()
    expect(job.get_by_text("pictures/s")).to_be_visible()

    page.reload()
    expect(job.get_by_text("running", exact=True)).to_be_visible()
    expect(job.get_by_text(learning)).to_be_visible()

    job.get_by_role("button", name="Stop").click()
    dialog = page.get_by_role("dialog", name="Stop")
    expect(dialog).to_contain_text("Models that serve are not touched.")
    dialog.get_by_role("button", name="Let it run").click()
    expect(dialog).to_be_hidden()
    expect(job.get_by_text("running", exact=True)).to_be_visible()
    job.get_by_role("button", name="Stop").click()
    dialog.get_by_role("button", name="Stop").click()
    expect(job.get_by_text("stopped", exact=True)).to_be_visible()
    expect(job.get_by_text(re.compile(r"Stopped, .+ It took"))).to_be_visible()
    [entry] = empty.get("/v1/jobs")["jobs"]  # type: ignore[misc]
    assert entry["state"] == "stopped"

    page.reload()
    expect(job.get_by_text("stopped", exact=True)).to_be_visible()
    job.get_by_role("button", name="Go on").click()
    expect(job.get_by_text("running", exact=True)).to_be_visible()
    expect(job.get_by_text(learning)).to_be_visible(timeout=TRAINING_MS)


def test_a_training_that_fails_says_why_and_leads_on(empty: Line, visitor: Visitor) -> None:
    page = visitor.open(f"{empty.url}/ui/")
    hurry(page)
    now = at_step(page, "Good parts in")
    now.get_by_label("What is the product called?").fill("bracket")
    now.get_by_label("Choose pictures").set_input_files(shots(parts=4, times=6))
    now.get_by_role("button", name="These are all: go on").click()
    now.get_by_role("button", name="Start training").click()
    expect(training(page).get_by_text("failed", exact=True)).to_be_visible(timeout=TRAINING_MS)
    reason = training(page).get_by_role("alert")
    expect(reason).to_contain_text("These pictures cannot be trained on")
    expect(reason).to_contain_text("Collect 8 independent parts at the least")

    page.reload()
    expect(reason).to_contain_text("Collect 8 independent parts at the least")
    page.get_by_role("button", name="Add more good parts first").click()
    now = at_step(page, "Good parts in")
    now.get_by_label("Choose pictures").set_input_files(good_parts(12, first=4))
    expect(now.get_by_text("36 good parts in bracket")).to_be_visible()
    now.get_by_role("button", name="These are all: go on").click()
    begin = at_step(page, "Train").get_by_role("button", name="Start training")
    expect(begin).to_be_enabled()
