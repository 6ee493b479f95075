"""Every view, at three sizes, in two languages, light and dark: no complaint, axe finds nothing."""

import re
from pathlib import Path

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.ui.conftest import CAMERAS, SIZES, Line, Visitor

VIEWS = re.findall(
    r'name: "(\w+)"', (Path(__file__).parents[2] / "service/ui/views/views.js").read_text("utf-8")
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("size", SIZES)
def test_a_view_is_readable(
    visitor: Visitor, line: Line, size: str, language: str, scheme: str
) -> None:
    page = visitor.open(f"{line.url}/ui/", size=size, language=language, scheme=scheme)
    result = line.answers[-1]["result_id"]
    faults: list[object] = []
    for view in [*VIEWS, f"parts/{result}"]:
        page.goto(f"{line.url}/ui/#/{view}")
        expect(page.locator("main h1")).to_be_visible()
        page.wait_for_load_state("networkidle")
        violations = Axe().run(page).response["violations"]
        faults += [(view, fault["id"], fault["nodes"][0]["html"][:200]) for fault in violations]
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            faults.append((view, "wider than the screen"))
    assert faults == []


def test_the_page_is_held_to_its_own_scripts(visitor: Visitor, line: Line) -> None:
    answer = httpx2.get(f"{line.url}/ui/")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = visitor.open(f"{line.url}/ui/")
    expect(page.locator("main h1")).to_be_visible()
    assert page.evaluate("'eval' in window") is True
    refused = page.evaluate(
        """() => { const script = document.createElement('script');
        script.textContent = 'window.injected = true'; document.body.append(script);
        return window.injected !== true; }"""
    )
    assert refused
    visitor.complaints.clear()  # the refusal is told on the console, as it should be


def test_what_people_write_is_text_whatever_it_holds(visitor: Visitor, line: Line) -> None:
    hostile = "<img src=x onerror=\"window.hurt = 1\"> 'quoted' & 🔩 " + "x" * 500
    result = line.answers[-1]["result_id"]
    answer = httpx2.post(
        f"{line.url}/v1/results/{result}/feedback",
        json={"kind": "confirmed_defect", "comment": hostile},
    )
    assert answer.status_code == 201
    page = visitor.open(f"{line.url}/ui/#/parts/{result}")
    expect(page.get_by_text("<img src=x onerror=")).to_be_visible()
    assert page.evaluate("window.hurt") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{line.url}/ui/")
    expect(page.get_by_role("heading", name=CAMERAS[-1])).to_be_visible()
