"""Between a PLC that speaks plain TCP and Maskline: a part's id and a line end in, OK or NG out.

    python examples/plc_gateway.py --images /camera/out --camera left --key-file key.txt

The camera writes `<part id>.jpg` into the folder before the PLC asks. Whatever goes wrong is NG,
because a part that nobody looked at must not pass; the reason is printed. Only the standard library
is needed.
"""

import argparse
import json
import socketserver
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

IMAGE_WAIT_S = 1.0


class Gateway(socketserver.StreamRequestHandler):
    """Answers one PLC's connection, line by line, for as long as it stays."""

    options: argparse.Namespace

    def handle(self) -> None:
        """Answer each line."""
        for line in self.rfile:
            part = line.decode("ascii", "replace").strip()
            started = time.monotonic()
            verdict, why = ask(part, self.options)
            self.wfile.write(f"{verdict}\r\n".encode())
            print(
                f"{part} {verdict} {1000 * (time.monotonic() - started):.0f} ms {why}", flush=True
            )


def ask(part: str, options: argparse.Namespace) -> tuple[str, str]:
    """Return OK or NG, and why."""
    image = options.images / f"{part}.jpg"
    if not part or image.parent != options.images:  # no part id leads out of the folder
        return "NG", "no part id"
    try:
        answer = post(wait_for(image), part, options)
    except urllib.error.HTTPError as error:
        return "NG", f"{error.code} {json.loads(error.read() or b'{}').get('code', '')}"
    except (OSError, ValueError) as error:
        return "NG", str(error)
    return ("NG" if answer["is_anomalous"] else "OK"), f"score {answer['score']:.2f}"


def wait_for(image: Path) -> bytes:
    """Read the image once the camera has written all of it: its size stands still."""
    until, size = time.monotonic() + IMAGE_WAIT_S, -1
    while time.monotonic() < until:
        now = image.stat().st_size if image.exists() else -1
        if now > 0 and now == size:
            return image.read_bytes()
        size = now
        time.sleep(0.01)
    raise TimeoutError(f"no whole image {image.name} within {IMAGE_WAIT_S:g} s")


def post(image: bytes, part: str, options: argparse.Namespace) -> dict[str, float]:
    """Ask the service; the deadline is the takt time that is left for it."""
    query = {"part_id": part, "camera": options.camera, "heatmap": "none"}
    query |= {"deadline_ms": str(options.deadline_ms)}
    request = urllib.request.Request(
        f"{options.url}/score?{urllib.parse.urlencode(query)}",
        data=image,
        headers={"Content-Type": "image/jpeg", "X-API-Key": options.key},
    )
    with urllib.request.urlopen(request, timeout=options.deadline_ms / 1000 + 0.5) as answer:
        found: dict[str, float] = json.load(answer)
        return found


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--camera", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key-file", type=Path, help="the API key, alone in a file")
    parser.add_argument("--deadline-ms", type=int, default=500)
    parser.add_argument("--listen", type=int, default=2000, help="TCP port")
    options = parser.parse_args()
    options.key = options.key_file.read_text().strip() if options.key_file else ""
    Gateway.options = options
    with socketserver.ThreadingTCPServer(("", options.listen), Gateway) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
