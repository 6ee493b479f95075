"""The cost of bringing a JPEG to the canvas, by decoder: `python -m bench.decode`.

One core; medians. The last two columns say how far a canvas lies from that of the whole decode, in
grey levels of 255, and how far the same image saved again at quality 80 does, for comparison.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from anomaly.device import usable_cores
from anomaly.image import decode_image
from anomaly.preprocess import PreprocessConfig, place
from anomaly.types import RgbImage

SIZES = ((480, 640), (1944, 2592), (3000, 4000))


def main() -> None:
    """Print a table for each size of image."""
    options = _options()
    cv2.setNumThreads(1)
    config = PreprocessConfig(canvas=options.canvas)
    print(f"{usable_cores()} cores, one used, {options.rounds} rounds, medians")
    for size in SIZES:
        image = picture(size)
        data, worse = jpeg(image, 92), jpeg(image, 80)
        decoded = _by_simplejpeg(data, config)
        off_again = _off(_by_simplejpeg(worse, config), decoded)
        print(f"\n{size[1]} × {size[0]} px, {len(data) // 1000} KB, canvas {options.canvas} px\n")
        print("| decoder | ms | off by | quality 80 is off by |\n|---|---|---|---|")
        for name, decode in DECODERS.items():
            seconds = [_timed(decode, data, config) for _ in range(options.rounds)]
            off = _off(decode(data, config), decoded)
            milliseconds = 1000 * statistics.median(seconds)
            print(f"| {name} | {milliseconds:.2f} | {off:.2f} | {off_again:.2f} |", flush=True)


def picture(size: tuple[int, int]) -> np.ndarray:
    """Draw smooth structure with a camera's noise on it, (H, W, 3) uint8."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    noisy: np.ndarray = np.clip(smooth + generator.normal(0, 4, smooth.shape), 0, 255)
    return noisy.astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode as a camera does, with halved colour."""
    return bytes(
        simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")
    )


def _ours(data: bytes, config: PreprocessConfig) -> np.ndarray:
    return place(decode_image(data, canvas=config.canvas), config)[0]


def _by_simplejpeg(data: bytes, config: PreprocessConfig) -> np.ndarray:
    return place(RgbImage(simplejpeg.decode_jpeg(data, "RGB")), config)[0]


def _by_opencv(data: bytes, config: PreprocessConfig) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return place(RgbImage(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8)), config)[0]


def _by_pillow(data: bytes, config: PreprocessConfig) -> np.ndarray:
    return place(RgbImage(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))), config)[0]


def _by_pillow_draft(data: bytes, config: PreprocessConfig) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (2 * config.canvas, 2 * config.canvas))
    return place(RgbImage(np.asarray(image.convert("RGB"))), config)[0]


DECODERS: dict[str, Callable[[bytes, PreprocessConfig], np.ndarray]] = {
    "Maskline (simplejpeg, reduced where it may be)": _ours,
    "simplejpeg, whole": _by_simplejpeg,
    "OpenCV, whole": _by_opencv,
    "Pillow, whole": _by_pillow,
    "Pillow, draft": _by_pillow_draft,
}


def _timed(
    decode: Callable[[bytes, PreprocessConfig], np.ndarray], data: bytes, config: PreprocessConfig
) -> float:
    started = time.perf_counter()
    decode(data, config)
    return time.perf_counter() - started


def _off(first: np.ndarray, other: np.ndarray) -> float:
    return float(255 * np.abs(first - other).mean())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canvas", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


if __name__ == "__main__":
    main()
