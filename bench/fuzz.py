"""Damaged and hostile image bodies against the whole service: none may crash it, hang it or leak.

    python -m bench.fuzz maskline-demo/models/flange --count 20000

Bodies are images of every format, cut short, with bits flipped, bytes replaced, pieces of two
spliced, sizes in the header blown up, or another file's head or tail attached. Each must be
answered in time: 4xx, or 200 where what is left is still a whole image. Exits with 1 otherwise.
"""

import argparse
import io
import os
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from anomaly.device import give_back_memory
from service.app import create_app
from service.settings import Settings
from training.progress import SHOWN, Progress

_ALLOWED = (200, 400, 413, 415)
_SLOWEST_S = 10.0
_GROWTH = 1.1
_WARM = 500  # bodies before memory and files are counted


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failures = run(options.model, options.count, options.seed)
    for failure in failures:
        print("FAILED:", failure)
    sys.exit(1 if failures else 0)


def run(model: Path, count: int, seed: int = 0, *, progress: Progress = SHOWN) -> list[str]:
    """Send the bodies; print what was answered and return what went wrong."""
    settings = Settings(
        models_dir=model,
        auth="off",
        allowed_hosts="testserver",  # what TestClient calls it
        record="off",
        max_image_pixels=4_000_000,
    )
    answers: Counter[str] = Counter()
    failures: list[str] = []
    slowest, before = 0.0, (0, 0)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        for index, body in enumerate(
            progress.each(bodies(count, seed), "bodies", total=count, unit="body")
        ):
            if index == min(_WARM, count // 2):
                before = _held()
            started = time.monotonic()
            answer = client.post("/score?heatmap=none", content=body)
            slowest = max(slowest, time.monotonic() - started)
            code = "" if answer.status_code == 200 else answer.json()["code"]
            answers[f"{answer.status_code} {code}".strip()] += 1
            if answer.status_code not in _ALLOWED:
                failures.append(f"body {index} of seed {seed}: {answer.status_code} {answer.text}")
        give_back_memory()
        after = _held()
        if client.get("/health/ready").status_code != 200:
            failures.append("the service is not ready any more")
    print(f"{count} bodies: " + ", ".join(f"{n} × {k}" for k, n in answers.most_common()))
    print(
        f"slowest {slowest:.2f} s; files {before[0]} → {after[0]}; "
        f"memory {before[1] / 1e6:.0f} → {after[1] / 1e6:.0f} MB; peak {_peak() / 1e6:.0f} MB"
    )
    if slowest > _SLOWEST_S:
        failures.append(f"an answer took {slowest:.1f} s")
    if after[1] > _GROWTH * before[1]:
        failures.append(f"memory grew from {before[1] / 1e6:.0f} to {after[1] / 1e6:.0f} MB")
    if after[0] > before[0]:
        failures.append(f"{after[0] - before[0]} files were left open")
    return failures


def bodies(count: int, seed: int) -> Iterator[bytes]:
    """Yield mutated images; the same seed gives the same."""
    generator = np.random.default_rng(seed)
    seed_files = seeds()
    mutations = (_cut, _flip, _replace, _splice, _blow_up, _attach)
    for _ in range(count):
        body = seed_files[generator.integers(len(seed_files))]
        for _ in range(int(generator.integers(1, 4))):
            mutate = mutations[generator.integers(len(mutations))]
            body = mutate(body, seed_files[generator.integers(len(seed_files))], generator)
        yield body


def seeds() -> list[bytes]:
    """Return small images of every format and kind."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (picture, "JPEG", {}),
        (picture, "JPEG", {"progressive": True, "exif": exif}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture.convert("L"), "PNG", {}),
        (picture.convert("RGBA"), "PNG", {}),
        (picture.convert("P"), "PNG", {}),
        (Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG", {}),
        (picture, "BMP", {}),
        (picture, "TIFF", {}),
        (picture, "TIFF", {"compression": "tiff_lzw"}),
        (Image.fromarray(noise[..., 0].astype(np.uint16)), "TIFF", {}),
        (picture, "GIF", {}),
        (picture, "WEBP", {}),
    ]
    return [_encoded(image, kind, parameters) for image, kind, parameters in kinds]


def _encoded(image: Image.Image, kind: str, parameters: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **parameters)
    return buffer.getvalue()


def _cut(body: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    return body[: int(generator.integers(len(body) + 1))]


def _flip(body: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(body)
    for _ in range(int(generator.integers(1, 20))):
        if changed:
            changed[generator.integers(len(changed))] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _replace(body: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Overwrite a few bytes near the head, where sizes and offsets are, with extreme values."""
    changed = bytearray(body)
    at = int(generator.integers(min(len(changed), 64) + 1))
    value = [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\x80\x00"]
    piece = value[generator.integers(len(value))]
    changed[at : at + len(piece)] = piece
    return bytes(changed)


def _splice(body: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    return (
        body[: int(generator.integers(len(body) + 1))]
        + other[int(generator.integers(len(other) + 1)) :]
    )


def _blow_up(body: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A PNG that says that it is huge, with a right checksum."""
    side = int(2 ** generator.uniform(4, 31))
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    chunks = [(header[:4], header[4:]), (b"IDAT", data), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _attach(body: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Make one file of two kinds: an archive, a script or a page before or behind the image."""
    pieces = (
        b"PK\x03\x04" + bytes(60),
        b"<script>1</script>",
        b"GIF89a",
        b"%PDF-1.7\n",
        b"\x00" * 9,
    )
    piece = pieces[generator.integers(len(pieces))]
    return piece + body if generator.random() < 0.5 else body + piece


def _held() -> tuple[int, int]:
    """Open files and resident bytes of this process."""
    files = len(list(Path("/proc/self/fd").iterdir()))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return files, pages * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
