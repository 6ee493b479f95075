"""A real browser on a real service: Debian's Chromium, driven by Playwright."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from anomaly.bundle import Bundle, save_bundle
from anomaly.calibration import CalibrationSettings
from tests.conftest import normal_pixels, planted, png, samples
from tests.service.test_run import RealServer
from training.calibrate import calibrate_model
from training.progress import QUIET

expect.set_options(timeout=20_000)  # two cores, and a service beside the browser
SIZES = {"phone": (360, 800), "tablet": (1024, 768), "wall": (1920, 1080)}
FIRST_NORMAL, NORMALS = 24, 40  # those that `tiny_data` calibrates on: none is a false alarm
CAMERAS = ("left", "right", "Größe/3 @+" + "x" * 118)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder) and "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs Debian's package chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        yield playwright.chromium.launch(executable_path=executable, args=arguments)


@dataclass(slots=True)
class Visitor:
    """Opens the page for one reader after the other; remembers what the browser complained of."""

    browser: Browser
    complaints: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def hears_nothing_more(self) -> None:
        """Close the pages, and forget what browsers write down of a service that was away."""
        self.close()
        assert all("ERR_" in complaint or "503" in complaint for complaint in self.complaints)
        self.complaints.clear()

    def close(self) -> None:
        while self.contexts:
            context = self.contexts.pop()
            for page in context.pages:
                page.unroute_all(behavior="ignoreErrors")  # an answer may be on its way
            context.close()

    def open(
        self, url: str, *, size: str = "tablet", language: str = "en", scheme: str = "light"
    ) -> Page:
        width, height = SIZES[size]
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            locale={"en": "en-GB", "de": "de-DE"}[language],
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",
        )
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)
        return page


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """Open pages; at the end of the test the browser must not have had a word to say."""
    visiting = Visitor(browser)
    yield visiting
    visiting.close()
    assert visiting.complaints == []


@dataclass(slots=True)
class Line:
    """A service that keeps everything, and what was sent to it."""

    server: RealServer
    folder: Path
    answers: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # where it asks for keys

    @property
    def url(self) -> str:
        return self.server.url

    def send(self, count: int, *, camera: str = "left", defects: int = 0, first: int = 0) -> None:
        """Send parts of which the last `defects` have a defect."""
        for index in range(first, first + count):
            pixels = normal_pixels(FIRST_NORMAL + index % NORMALS)
            if index >= first + count - defects:
                pixels = planted(pixels, 40 + index % 40, 40, 12)
            query = {"camera": camera, "part_id": f"P-{index:04d}", "lot": "lot 7"}
            answer = httpx2.post(
                f"{self.url}/score", params=query, content=png(pixels), headers=self.headers
            )
            answer.raise_for_status()
            self.answers.append(answer.json())
        self._wait_until_stored(count)

    def _wait_until_stored(self, count: int) -> None:
        """Wait for the record: a part is answered for before it is there."""
        sent = {answer["result_id"] for answer in self.answers[-count:]}
        for _ in range(200):
            rows = self.get(f"/v1/results?limit={count}")["results"]
            if sent <= {row["result_id"] for row in rows}:
                return
            time.sleep(0.1)
        raise AssertionError("the parts were never stored")

    def send_files(self, files: Sequence[Path], *, camera: str) -> None:
        for file in files:
            query = {"camera": camera, "part_id": "A-1001"}
            answer = httpx2.post(f"{self.url}/score", params=query, content=file.read_bytes())
            answer.raise_for_status()

    def get(self, path: str) -> dict[str, Any]:
        answer = httpx2.get(f"{self.url}{path}", headers=self.headers)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document

    def post(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        answer = httpx2.post(f"{self.url}{path}", json=body, headers=self.headers)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document


LineStart = Callable[..., Line]


@pytest.fixture(scope="module")
def line_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LineStart]:
    """Start services with a record of their own."""
    servers: list[RealServer] = []

    def start(
        models: Path, like: Line | None = None, up_at: str = "/health/ready", **variables: str
    ) -> Line:
        place = tmp_path_factory.mktemp("line") if like is None else like.folder
        usual = {
            "MASKLINE_RECORD": "on",
            "MASKLINE_RECORD_DIR": str(place),
            "MASKLINE_KEEP": "all",
            "MASKLINE_LOG_LEVEL": "warning",  # nobody reads the pipe
            "OMP_NUM_THREADS": "1",
        }
        url = None if like is None else like.url
        server = RealServer(models, url=url, up_at=up_at, **(usual | variables))
        servers.append(server)
        return Line(server, place)

    yield start
    for server in servers:
        server.end()


@pytest.fixture(scope="session")
def models(tiny_bundle: Bundle, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose threshold is the largest score of its calibration."""
    normals = samples(tiny_data / "validation/good")
    settings = CalibrationSettings(1 / (NORMALS + 1))
    calibration = calibrate_model(tiny_bundle.model, normals, settings, progress=QUIET)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_bundle(replace(tiny_bundle, calibration=calibration), folder, "v1")
    return folder


@pytest.fixture(scope="module")
def line(line_start: LineStart, models: Path) -> Line:
    """A line of three cameras that has made some parts."""
    running = line_start(models)
    for number, camera in enumerate(CAMERAS):
        running.send(8, camera=camera, defects=3, first=100 * number)
    return running
