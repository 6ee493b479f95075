"""The queue: by keyboard alone, with undo, and with two reviewers at once."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.ui.conftest import Line, LineStart, Visitor


def verdicts(running: Line) -> dict[str, str]:
    rows = running.get("/v1/results?limit=200")["results"]
    return {row["result_id"]: row["verdict"] for row in rows}  # type: ignore[index, attr-defined]


def said(running: Line, result_id: str) -> list[dict[str, str]]:
    return running.get(f"/v1/results/{result_id}")["feedback"]  # type: ignore[return-value]


def shown(page: Page) -> str:
    """Return the id of the part that is shown."""
    address = page.get_by_role("link", name="Everything about this part").get_attribute("href")
    return (address or "").rpartition("/")[2]


def test_a_queue_of_twenty_by_keyboard_alone(
    visitor: Visitor, line_start: LineStart, models: Path
) -> None:
    running = line_start(models)
    running.send(20, defects=20)
    rejected = {part for part, verdict in verdicts(running).items() if verdict == "NG"}
    assert len(rejected) == 20
    page = visitor.open(f"{running.url}/ui/#/review")
    expect(page.get_by_text("20 parts wait")).to_be_visible()
    page.get_by_label("New kind of defect").fill("scratch")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Review").click()
    judged: dict[str, str] = {}
    for number in range(20):
        expect(page.get_by_text(f"{number} judged here")).to_be_visible()
        judged[shown(page)] = key = "gd1"[number % 3]
        page.keyboard.press(key)
    expect(page.get_by_text("20 judged here")).to_be_visible()
    assert set(judged) == rejected
    page.wait_for_load_state("networkidle")
    for part, key in judged.items():
        [entry] = said(running, part)
        assert entry["kind"] == ("false_alarm" if key == "g" else "confirmed_defect")
        assert entry["defect"] == ("scratch" if key == "1" else None)


def test_an_answer_is_taken_back(visitor: Visitor, line_start: LineStart, models: Path) -> None:
    running = line_start(models)
    running.send(3, defects=3)
    page = visitor.open(f"{running.url}/ui/#/review")
    first = shown(page)
    page.keyboard.press("d")
    expect(page.get_by_text("1 judged here")).to_be_visible()
    assert shown(page) != first
    page.keyboard.press("u")
    expect(page.get_by_text("0 judged here")).to_be_visible()
    assert shown(page) == first
    kinds = [entry["kind"] for entry in said(running, first)]
    assert kinds == ["withdrawn", "confirmed_defect"]
    waiting = running.get("/v1/results?feedback=none&verdict=NG")["results"]
    assert first in {row["result_id"] for row in waiting}  # type: ignore[index, attr-defined]


def settle(pages: list[Page]) -> list[str]:
    """Wait until every page shows a part of its own for a while: the second is led on."""
    parts: list[list[str]] = []
    for _ in range(200):
        parts.append([shown(page) for page in pages])
        if len(set(parts[-1])) == len(pages) and parts[-8:] == 8 * [parts[-1]]:
            return parts[-1]
        pages[0].wait_for_timeout(100)
    raise AssertionError(parts[-1])


def test_two_reviewers_judge_no_part_twice(
    visitor: Visitor, line_start: LineStart, models: Path
) -> None:
    running = line_start(models)
    running.send(6, defects=6)
    pages = [visitor.open(f"{running.url}/ui/#/review") for _ in range(2)]
    seen: list[str] = []
    for number in range(1, 4):
        seen += settle(pages)
        for page in pages:
            page.keyboard.press("g")
            expect(page.get_by_text(f"{number} judged here")).to_be_visible()
    assert len(set(seen)) == 6
    pages[0].wait_for_load_state("networkidle")
    assert all(len(said(running, part)) == 1 for part in seen)
    # That somebody else has a part is an answer that browsers write down.
    assert all("409" in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()
