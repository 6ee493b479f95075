"""What a threshold would do, letting it serve and going back, and a key that goes meanwhile."""

import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from service.http.api_keys import Role, add_key, revoke_key
from tests.ui.conftest import Line, LineStart, Visitor

GOOD, DEFECTS = 22, 4


@pytest.fixture
def own_models(models: Path, tmp_path: Path) -> Path:
    """The model in a folder where versions may be added."""
    return Path(shutil.copytree(models, tmp_path / "models" / "tiny"))


def judge(running: Line, result_id: str, kind: str) -> None:
    running.post(f"/v1/results/{result_id}/feedback", {"kind": kind})


def rejected(running: Line) -> list[str]:
    """Ids of rejected parts, the strangest last."""
    answers = [answer for answer in running.answers if answer["verdict"] == "NG"]
    return [answer["result_id"] for answer in sorted(answers, key=lambda row: row["score"])]


def judged_parts(running: Line, false_alarms: int) -> None:
    """Send good parts and defects; call the least strange rejects false alarms."""
    running.send(GOOD + DEFECTS, defects=DEFECTS)
    for place, result_id in enumerate(rejected(running)):
        judge(running, result_id, "false_alarm" if place < false_alarms else "confirmed_defect")


def preview(running: Line, threshold: float) -> dict[str, Any]:
    body: dict[str, object] = {"threshold": threshold, "limit": 500}
    answer: dict[str, Any] = running.post("/v1/models/tiny:preview", body)["review"]
    return answer


def row(panel: Locator, label: str) -> Locator:
    """The value of a labelled count."""
    entry = panel.locator("dl.counts > div").filter(has=panel.page.locator("dt", has_text=label))
    return entry.locator("dd")


def shows(page: Page, running: Line, threshold: float) -> dict[str, Any]:
    """Hold the live counts against the service's own of this threshold."""
    review = preview(running, threshold)
    panel = page.get_by_role("region", name="What would happen")
    passing = f"{len(review['defects_passing'])} of {review['defects']}"
    expect(row(panel, "Passed, would be rejected")).to_have_text(str(review["to_reject"]))
    expect(row(panel, "Were rejected, would pass")).to_have_text(str(review["to_pass"]))
    expect(row(panel, "Confirmed defects that would pass")).to_have_text(passing)
    expect(panel.get_by_text("Confirmed: the service counts the same")).to_be_visible()
    return review


def among_good_parts(running: Line) -> float:
    """In the widest gap above a third of the good parts: a new calibration moves none over it."""
    body: dict[str, object] = {"limit": 500}
    scores = sorted(running.post("/v1/models/tiny:preview", body)["parts"]["score"])
    gaps = [(upper / lower, lower) for lower, upper in pairwise(scores[GOOD // 3 : GOOD])]
    ratio, lower = max(gaps)
    return round(float(lower * ratio**0.5), 3)


def test_what_if_counts_as_the_service_does(
    visitor: Visitor, line_start: LineStart, models: Path
) -> None:
    running = line_start(models)
    judged_parts(running, false_alarms=2)
    low, high = (running.get(f"/v1/results/{part}")["score"] for part in rejected(running)[1:3])
    page = visitor.open(f"{running.url}/ui/#/whatif")
    field = page.get_by_role("spinbutton", name="Tried threshold")

    def by_digits(threshold: float) -> dict[str, Any]:
        field.fill(str(threshold))
        field.press("Tab")
        return shows(page, running, threshold)

    assert by_digits(round((low + high) / 2, 1))["to_pass"] == 2  # the false alarms
    assert len(by_digits(1000.0)["defects_passing"]) == 2
    expect(page.get_by_text("2 confirmed defects would pass").first).to_be_visible()

    slider = page.get_by_role("slider", name="Tried threshold")
    slider.press("Home")
    expect(row(page.get_by_role("region", name="What would happen"), "altogether")).to_contain_text(
        str(GOOD + DEFECTS)
    )
    assert shows(page, running, float(field.input_value()))["to_reject"] == GOOD
    slider.press("ArrowRight")
    shows(page, running, float(field.input_value()))
    slider.press("End")
    assert shows(page, running, float(field.input_value()))["to_pass"] == DEFECTS


def test_a_calibration_does_what_what_if_counted(
    visitor: Visitor, line_start: LineStart, own_models: Path
) -> None:
    running = line_start(own_models)
    judged_parts(running, false_alarms=2)  # scores lie elsewhere if they count
    threshold = among_good_parts(running)
    page = visitor.open(f"{running.url}/ui/#/whatif?threshold={threshold}")
    promised = shows(page, running, threshold)
    assert promised["to_reject"] > 0
    page.get_by_role("link", name="Make it so").click()
    expect(page.get_by_role("spinbutton", name="Threshold (now")).to_have_value(str(threshold))
    page.get_by_role("button", name="Calibrate").click()
    changes = page.get_by_role("heading", name="What it would change").locator("..")
    compared = GOOD + DEFECTS
    expect(row(changes, "Passed, would be")).to_have_text(f"{promised['to_reject']} of {compared}")
    expect(row(changes, "Were rejected")).to_have_text(f"{promised['to_pass']} of {compared}")
    expect(row(changes, "Confirmed defects that")).to_have_text(f"0 of {DEFECTS - 2}")
    let_it_serve(page)
    before = [answer["verdict"] for answer in running.answers]
    running.answers.clear()
    running.send(GOOD + DEFECTS, defects=DEFECTS)
    after = [answer["verdict"] for answer in running.answers]
    assert all(answer["threshold"] == threshold for answer in running.answers)
    changed = list(zip(before, after, strict=True))
    assert changed.count(("OK", "NG")) == promised["to_reject"]
    assert changed.count(("NG", "OK")) == promised["to_pass"]


def let_it_serve(page: Page) -> None:
    page.get_by_role("button", name="Let it serve").click()
    dialog = page.get_by_role("dialog", name="Let this version serve?")
    dialog.get_by_role("button", name="Let it serve").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text(re.compile(r"^Version .* serves\.$"))).to_be_visible()


def serving(running: Line) -> dict[str, Any]:
    [model] = running.get("/v1/models")["models"]
    return dict(model)


def test_a_calibration_serves_and_is_gone_back_from(
    visitor: Visitor, line_start: LineStart, own_models: Path
) -> None:
    running = line_start(own_models)
    running.send(GOOD)
    old = serving(running)
    page = visitor.open(f"{running.url}/ui/#/calibrate")
    page.get_by_role("combobox", name="Camera").select_option("left")
    page.get_by_role("radio", name="Another share of the good parts").check()
    page.get_by_label("Good parts that may be rejected, %").fill("20")
    page.get_by_role("button", name="Calibrate").click()
    result = page.get_by_role("region", name="The new calibration")
    expect(result).to_contain_text(f"from {GOOD} good parts, waits")
    job = page.url.partition("#/calibrate/")[2].partition("?")[0]
    statement = running.get(f"/v1/jobs/{job}")["result"]["statement"]
    promise = page.get_by_role("heading", name="What it promises").locator("..")
    expect(promise).to_contain_text("Certified: on average at most 20%")
    expect(promise).to_contain_text(f"{GOOD} pictures of {GOOD} independent good parts")
    thresholds = page.get_by_role("row", name="Threshold").get_by_role("cell")
    expect(thresholds).to_have_text(
        [f"{round(number, 4):g}" for number in (old["threshold"], statement["threshold"])]
    )
    assert serving(running) == old  # it waits
    let_it_serve(page)
    new = serving(running)
    [own] = new["camera_calibrations"]
    assert (own["camera"], own["threshold"]) == ("left", statement["threshold"])
    assert new["version"] != old["version"]

    page.get_by_role("link", name="Models").first.click()
    model = page.get_by_role("region", name="tiny")
    expect(model.locator(".versions")).to_contain_text(new["version"])
    trail = page.get_by_role("region", name="Who changed what").get_by_role("row")
    switch = trail.filter(has_text="let serve").filter(has_text=new["version"])
    expect(switch).to_contain_text(re.compile(r"\d:\d\d:\d\d.*anybody"))  # it asks for no keys
    model.get_by_role("button", name="Go back to it").click()
    dialog = page.get_by_role("dialog", name="Go back to the version before?")
    back = dialog.get_by_role("button", name="Go back to it")
    expect(back).to_be_disabled()
    dialog.get_by_label("Reason (needed)").fill("too many rejects")
    back.click()
    expect(dialog).to_have_count(0)
    expect(trail.filter(has_text="went back")).to_contain_text("too many rejects")
    assert serving(running) == old


def test_a_calibration_that_lets_a_defect_pass_is_forced_with_a_reason_or_not_at_all(
    visitor: Visitor, line_start: LineStart, own_models: Path
) -> None:
    running = line_start(own_models)
    judged_parts(running, false_alarms=2)
    page = visitor.open(f"{running.url}/ui/#/calibrate?model=tiny&threshold=1000")
    page.get_by_role("button", name="Calibrate").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("2 confirmed defects would pass")
    page.get_by_role("button", name="Let it serve").click()
    dialog = page.get_by_role("dialog", name="Let this version serve?")
    dialog.get_by_role("button", name="Let it serve").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Confirmed defects would pass")
    assert serving(running)["version"] == "v1"
    force = dialog.get_by_role("button", name="Force it")
    reason = dialog.get_by_label("Reason (needed)")
    expect(force).to_be_disabled()
    reason.fill("  x ")
    expect(force).to_be_disabled()
    reason.fill("the product is discontinued")
    force.click()
    expect(dialog).to_have_count(0)
    assert serving(running)["threshold"] == 1000
    rows = running.get("/v1/audit?limit=10")["rows"]
    [switch] = [entry for entry in rows if entry["action"] == "activate"]
    assert switch["details"]["forced_because"] == "the product is discontinued"
    # That it was refused is an answer that browsers write down.
    assert [complaint for complaint in visitor.complaints if "409" not in complaint] == []
    visitor.complaints.clear()


def log_in(page: Page, secret: str) -> None:
    page.get_by_label("API key").fill(secret)
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_label("API key")).to_have_count(0)


def test_a_key_revoked_under_an_open_page_costs_nothing_that_was_written(
    visitor: Visitor, line_start: LineStart, models: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    machine = add_key(keys, "line", Role.SCORE, Role.VIEW)
    reviewer, viewer = add_key(keys, "anna", Role.REVIEW), add_key(keys, "wall", Role.VIEW)
    running = line_start(models, MASKLINE_AUTH="keys", MASKLINE_KEYS_FILE=str(keys))
    running.headers = {"Authorization": f"Bearer {machine}"}
    running.send(2, defects=2)

    page = visitor.open(f"{running.url}/ui/#/review")
    log_in(page, reviewer)
    views = page.get_by_role("navigation").get_by_role("link")
    expect(views).to_have_text(["Wall", "Parts", "Review", "Cameras", "Help"])
    expect(page.get_by_text("2 parts wait")).to_be_visible()
    page.keyboard.press("c")
    comment = page.get_by_label("Goes with your next answer")
    comment.fill("scratch at the rim")
    comment.press("Enter")
    part = page.get_by_role("link", name="Everything about this part").get_attribute("href")
    revoke_key(keys, "anna")
    page.keyboard.press("d")
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.get_by_role("link", name="Everything about this part")).to_have_count(0)
    [path] = [f"/v1/results/{(part or '').rpartition('/')[2]}"]
    assert running.get(path)["feedback"] == []
    log_in(page, add_key(keys, "anna", Role.REVIEW))
    expect(comment).to_have_value("scratch at the rim")
    page.get_by_role("heading", name="Review").click()
    page.keyboard.press("d")
    expect(page.get_by_text("1 judged here")).to_be_visible()
    page.wait_for_load_state("networkidle")
    [entry] = running.get(path)["feedback"]
    assert (entry["comment"], entry["author"]) == ("scratch at the rim", "anna")

    page = visitor.open(f"{running.url}/ui/#/review")
    log_in(page, viewer)
    views = page.get_by_role("navigation").get_by_role("link")
    expect(views).to_have_text(["Wall", "Parts", "Cameras", "Help"])
    expect(page.get_by_text("Your key does not allow that.")).to_be_visible()
    # That nobody is logged in, or any more, is an answer that browsers write down.
    assert [complaint for complaint in visitor.complaints if "401" not in complaint] == []
    visitor.complaints.clear()
