"""What a reader sees while parts come, while the stream breaks, and while the service stops."""

import re
import signal
import time
from pathlib import Path

from playwright.sync_api import expect

from tests.ui.cable import Cable
from tests.ui.conftest import LineStart, Visitor


def test_the_wall_follows_the_line(visitor: Visitor, line_start: LineStart, models: Path) -> None:
    running = line_start(models)
    running.send(2, camera="left")
    page = visitor.open(f"{running.url}/ui/")
    tile = page.get_by_role("article", name="left")
    expect(tile).to_contain_text("0 of 2")
    for name, defects in (("OK", 0), ("NG", 1)):
        running.send(1, camera="left", defects=defects, first=50 + defects)
        expect(tile.get_by_role("img", name=name)).to_be_visible()
        shown = re.compile(re.escape(str(running.answers[-1]["result_id"])))
        expect(tile.locator(".tile-picture img")).to_have_attribute("src", shown)
    expect(tile).to_contain_text("1 of 4")


def test_elements_of_a_template_are_made_anew(
    visitor: Visitor, line_start: LineStart, models: Path
) -> None:
    running = line_start(models)
    page = visitor.open(f"{running.url}/ui/")
    is_new = """async () => {
      const { html } = await import("/ui/vendor.js");
      const draw = () => html`<p>always</p>`;
      return draw() !== draw();
    }"""
    assert page.evaluate(is_new)


def test_a_break_of_the_stream_loses_nothing(
    visitor: Visitor, line_start: LineStart, models: Path
) -> None:
    running = line_start(models)
    running.send(1, camera="left")
    cable = Cable(int(running.url.rpartition(":")[2]))
    page = visitor.open(f"{cable.url}/ui/")
    expect(page.get_by_role("article", name="left")).to_contain_text("0 of 1")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    cable.cut()
    expect(page.get_by_text("no connection")).to_be_visible()
    running.send(5, camera="left", defects=2, first=10)
    cable.mend()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    expect(page.get_by_role("article", name="left")).to_contain_text("2 of 6")
    visitor.hears_nothing_more()
    cable.close()


def test_a_page_left_open_over_a_restart_goes_on(
    visitor: Visitor, line_start: LineStart, models: Path
) -> None:
    running = line_start(models)
    running.send(2, camera="left")
    page = visitor.open(f"{running.url}/ui/")
    expect(page.get_by_role("article", name="left")).to_contain_text("0 of 2")
    running.server.process.send_signal(signal.SIGTERM)
    running.server.process.wait(30)
    expect(page.get_by_text("no connection")).to_be_visible()
    again = line_start(models, like=running)
    again.send(1, camera="left", defects=1, first=20)
    expect(page.get_by_role("article", name="left")).to_contain_text("1 of 3")
    visitor.hears_nothing_more()


def test_five_open_pages_do_not_hold_up_the_end(
    visitor: Visitor, line_start: LineStart, models: Path
) -> None:
    running = line_start(models, MASKLINE_DRAIN_DELAY_S="0")
    running.send(1)
    for _ in range(5):
        page = visitor.open(f"{running.url}/ui/")
        expect(page.get_by_text("live", exact=True)).to_be_visible()
    started = time.monotonic()
    running.server.process.send_signal(signal.SIGTERM)
    code = running.server.process.wait(20)
    seconds = time.monotonic() - started
    assert code == 0
    assert seconds < 2, seconds
    expect(page.get_by_text("no connection")).to_be_visible()
    visitor.hears_nothing_more()
