"""What a reader sees while parts come, while the stream breaks, and while the service stops."""

import os
import signal
import time

from playwright.sync_api import Page, expect

from tests.ui.conftest import LineStart, Visitor


def lamp(page: Page, camera: str) -> str:
    tile = page.get_by_role("article", name=camera)
    return tile.get_by_role("img").first.get_attribute("aria-label") or ""


def test_the_wall_follows_the_line(visitor: Visitor, line_start: LineStart, tiny_folder) -> None:
    running = line_start(tiny_folder)
    running.send(2, camera="left")
    page = visitor.open(f"{running.url}/ui/")
    tile = page.get_by_role("article", name="left")
    expect(tile.get_by_role("img", name="OK")).to_be_visible()
    expect(tile).to_contain_text("0 of 2")
    running.send(1, camera="left", defects=1, first=50)
    expect(tile.get_by_role("img", name="NG")).to_be_visible()
    expect(tile).to_contain_text("1 of 3")
    expect(tile.locator(".tile-picture img")).to_have_attribute(
        "src", lambda_matches(running.answers[-1]["result_id"])
    )


def lambda_matches(text: object):
    import re

    return re.compile(re.escape(str(text)))


def test_a_break_of_the_stream_loses_nothing(
    visitor: Visitor, line_start: LineStart, tiny_folder
) -> None:
    running = line_start(tiny_folder)
    running.send(1, camera="left")
    page = visitor.open(f"{running.url}/ui/")
    expect(page.get_by_role("article", name="left")).to_contain_text("0 of 1")
    page.context.set_offline(True)
    expect(page.get_by_text("no connection")).to_be_visible()
    running.send(5, camera="left", defects=2, first=10)
    page.context.set_offline(False)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    expect(page.get_by_role("article", name="left")).to_contain_text("2 of 6")
    visitor.complaints.clear()  # that there was no connection


def test_a_page_left_open_over_a_restart_goes_on(
    visitor: Visitor, line_start: LineStart, tiny_folder
) -> None:
    first = line_start(tiny_folder)
    first.send(2, camera="left")
    page = visitor.open(f"{first.url}/ui/")
    expect(page.get_by_role("article", name="left")).to_contain_text("0 of 2")
    first.server.process.send_signal(signal.SIGTERM)
    first.server.process.wait(30)
    again = line_start(
        tiny_folder,
        MASKLINE_PORT=first.url.rpartition(":")[2],
        MASKLINE_RECORD_DIR=first.folder,
    )
    again.send(1, camera="left", defects=1, first=20)
    expect(page.get_by_role("article", name="left")).to_contain_text("1 of 3", timeout=30_000)
    visitor.complaints.clear()


def test_five_open_pages_do_not_hold_up_the_end(
    visitor: Visitor, line_start: LineStart, tiny_folder
) -> None:
    running = line_start(tiny_folder, MASKLINE_DRAIN_DELAY_S="0")
    running.send(1)
    for _ in range(5):
        page = visitor.open(f"{running.url}/ui/")
        expect(page.get_by_text("live", exact=True)).to_be_visible()
    started = time.monotonic()
    os.kill(running.server.process.pid, signal.SIGTERM)
    code = running.server.process.wait(20)
    seconds = time.monotonic() - started
    assert code == 0
    assert seconds < 2, seconds
    expect(page.get_by_text("no connection")).to_be_visible()
    visitor.complaints.clear()
