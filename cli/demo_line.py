"""A line for the demo: parts that it drew go through the service, as a camera would send them."""

import http.client
import threading
import time
from pathlib import Path
from random import Random
from urllib.parse import urlencode

_CAMERAS = ("left", "right")
_EVERY_BAD = 4  # more good parts than bad ones, as on a line
_LOT = 40
_READY_S = 120.0
_EACH_S = 0.05  # twenty parts a second at most: the page shows them coming


def send_in_background(parts: Path, port: int) -> None:
    """Send test parts of a drawn set once the service is ready; ends with the process."""
    test = sorted((parts / "test").glob("*/*"))
    good = [image for image in test if image.parent.name == "good"]
    bad = [image for image in test if image.parent.name != "good"]
    images = [*good, *bad[::_EVERY_BAD]]
    Random(0).shuffle(images)
    threading.Thread(target=_send, args=(images, port), daemon=True).start()


def _send(images: list[Path], port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        _wait_until_ready(connection)
        for number, image in enumerate(images, start=1):
            query = {
                "camera": _CAMERAS[number % len(_CAMERAS)],
                "part_id": f"A-{number:04d}",
                "lot": f"lot-{1 + number // _LOT}",
                "heatmap": "none",
            }
            connection.request("POST", f"/score?{urlencode(query)}", image.read_bytes())
            connection.getresponse().read()
            time.sleep(_EACH_S)
    except (OSError, http.client.HTTPException):
        pass  # the service is stopping, or somebody else's is there: there is nobody to tell
    finally:
        connection.close()


def _wait_until_ready(connection: http.client.HTTPConnection) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        try:
            connection.request("GET", "/health/ready")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return
        except OSError:
            connection.close()
        time.sleep(0.2)
    raise TimeoutError
