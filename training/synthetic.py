"""Procedurally drawn parts for the demo and the tests: a machined flange under a line camera.

A brushed plate with a bore, four countersunk holes, a slot and an engraving lies on a dark belt.
Pose, light, brushing and sensor noise differ from part to part; defects are scratches, dents,
missing features, contamination and cracks, each with its mask. Knows no model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

KINDS = ("scratch", "dent", "missing", "contamination", "crack")
_SIZE = (480, 640)  # (H, W) of the nominal drawing
_HOLES = ((160, 110), (480, 110), (160, 370), (480, 370))  # (x, y)
_BORE, _BORE_RADIUS, _HOLE_RADIUS = (320, 240), 70, 17
_SLOT = ((270, 395), (370, 395))


@dataclass(frozen=True, slots=True)
class PartsConfig:
    """How many parts of each kind, and the camera's (H, W)."""

    train: int = 200
    validation: int = 120
    test_good: int = 60
    test_each: int = 16
    size: tuple[int, int] = _SIZE

    @property
    def total(self) -> int:
        """Number of images."""
        return self.train + self.validation + self.test_good + self.test_each * len(KINDS)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A part in its nominal pose: brightness (H, W) in [0, 1], the plate, and the defect's mask."""

    surface: np.ndarray
    plate: np.ndarray
    defect: np.ndarray


def write_parts(folder: Path, config: PartsConfig, seed: int = 0) -> Iterator[Path]:
    """Write a set in MVTec layout, one path after the other as it is written."""
    for split, kind, index in _plan(config):
        generator = np.random.default_rng((seed, index))
        image, mask = draw_part(generator, None if kind == "good" else kind, config.size)
        path = folder / split / kind / f"{index:04d}.jpg"
        _write(path, image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        if kind != "good":
            truth = folder / "ground_truth" / kind / f"{index:04d}_mask.png"
            _write(truth, mask.astype(np.uint8) * 255, [])
        yield path


def draw_part(
    generator: np.random.Generator, kind: str | None = None, size: tuple[int, int] = _SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one part: (H, W, 3) RGB uint8 and its defect mask (H, W) bool, empty for `kind` None."""
    missing = int(generator.integers(5)) if kind == "missing" else None
    drawing = _nominal(generator, missing)
    if kind is not None and kind != "missing":
        drawing = _DEFECTS[kind](drawing, generator)
    pose = _pose(generator)
    shape = (_SIZE[1], _SIZE[0])
    surface = cv2.warpAffine(drawing.surface, pose, shape, borderMode=cv2.BORDER_REFLECT)
    plate = cv2.warpAffine(drawing.plate, pose, shape)
    defect = cv2.warpAffine(drawing.defect.astype(np.float32), pose, shape)
    lit = _light(_on_belt(surface, plate, generator), generator)
    image = _camera(lit, size, generator)
    mask = cv2.resize(defect, (size[1], size[0]), interpolation=cv2.INTER_AREA) > 0.5
    return image, mask


def _plan(config: PartsConfig) -> Iterator[tuple[str, str, int]]:
    counts = [("train", "good", config.train), ("validation", "good", config.validation)]
    counts += [("test", "good", config.test_good)]
    counts += [("test", kind, config.test_each) for kind in KINDS]
    index = 0
    for split, kind, count in counts:
        for _ in range(count):
            yield split, kind, index
            index += 1


def _nominal(generator: np.random.Generator, missing: int | None) -> _Drawing:
    plate = np.zeros(_SIZE, np.float32)
    cv2.rectangle(plate, (100, 50), (540, 430), 1.0, -1)
    plate = (cv2.GaussianBlur(plate, (0, 0), 9) > 0.5).astype(np.float32)  # rounds the corners
    surface = 0.55 + _brushing(generator)
    edge = plate - cv2.erode(plate, np.ones((9, 9), np.uint8))
    surface = surface + 0.18 * cv2.GaussianBlur(edge, (0, 0), 1.2)
    defect = np.zeros(_SIZE, bool)
    for index, centre in enumerate(_HOLES):
        if index == missing:
            defect |= _disc(centre, _HOLE_RADIUS + 9)
        else:
            surface = _countersunk(surface, centre)
    surface = _bore(surface)
    if missing == len(_HOLES):
        slot = np.zeros(_SIZE, np.uint8)
        cv2.line(slot, *_SLOT, 1, 18)
        defect |= slot.astype(bool)
    else:
        surface = _slot(surface)
    engraved = np.zeros(_SIZE, np.uint8)
    cv2.putText(engraved, "MK-7", (268, 118), cv2.FONT_HERSHEY_SIMPLEX, 1.3, 255, 3, cv2.LINE_AA)
    return _Drawing(surface - 0.2 * engraved.astype(np.float32) / 255, plate, defect)


def _brushing(generator: np.random.Generator) -> np.ndarray:
    """Fine horizontal streaks and a slow unevenness, as brushing and rolling leave them."""
    noise = generator.standard_normal(_SIZE).astype(np.float32)
    streaks = cv2.GaussianBlur(noise, (0, 0), sigmaX=14, sigmaY=0.6)
    slow = cv2.resize(
        generator.standard_normal((5, 6)).astype(np.float32),
        _SIZE[::-1],
        interpolation=cv2.INTER_CUBIC,
    )
    uneven: np.ndarray = 0.028 * streaks / streaks.std() + 0.012 * slow
    return uneven


def _countersunk(surface: np.ndarray, centre: tuple[int, int]) -> np.ndarray:
    surface = _shade(surface, _disc(centre, _HOLE_RADIUS + 8), 0.70, 1.0)
    return _shade(surface, _disc(centre, _HOLE_RADIUS), 0.08, 1.2)


def _bore(surface: np.ndarray) -> np.ndarray:
    surface = _shade(surface, _disc(_BORE, _BORE_RADIUS + 7), 0.74, 1.0)
    return _shade(surface, _disc(_BORE, _BORE_RADIUS), 0.07, 1.4)


def _slot(surface: np.ndarray) -> np.ndarray:
    line = np.zeros(_SIZE, np.uint8)
    cv2.line(line, *_SLOT, 1, 18)
    return _shade(surface, line.astype(bool), 0.12, 1.2)


def _shade(surface: np.ndarray, where: np.ndarray, level: float, softness: float) -> np.ndarray:
    weight = cv2.GaussianBlur(where.astype(np.float32), (0, 0), softness)
    return surface * (1 - weight) + level * weight


def _disc(centre: tuple[int, int], radius: float) -> np.ndarray:
    rows, cols = np.ogrid[: _SIZE[0], : _SIZE[1]]
    inside: np.ndarray = np.hypot(rows - centre[1], cols - centre[0]) <= radius
    return inside


def _free_spot(generator: np.random.Generator, margin: int) -> tuple[int, int]:
    """A place on the plate's face, clear of the bore."""
    while True:
        x = int(generator.integers(100 + margin, 540 - margin))
        y = int(generator.integers(50 + margin, 430 - margin))
        if np.hypot(x - _BORE[0], y - _BORE[1]) > _BORE_RADIUS + margin:
            return x, y


def _scratch(drawing: _Drawing, generator: np.random.Generator) -> _Drawing:
    x, y = _free_spot(generator, 30)
    angle, length = generator.uniform(0, 2 * np.pi), generator.uniform(45, 150)
    bend = generator.uniform(-0.5, 0.5)
    along = np.linspace(0, 1, 24)
    direction = angle + bend * along
    points = np.stack(
        [
            x + np.cumsum(np.cos(direction)) * length / 24,
            y + np.cumsum(np.sin(direction)) * length / 24,
        ],
        axis=1,
    )
    width = int(generator.integers(2, 5))
    line = np.zeros(_SIZE, np.uint8)
    cv2.polylines(line, [points.astype(np.int32)], isClosed=False, color=255, thickness=width)
    line[drawing.plate < 0.5] = 0
    depth = generator.choice([-1, 1]) * generator.uniform(0.12, 0.3)
    weight = cv2.GaussianBlur(line.astype(np.float32) / 255, (0, 0), 0.8)
    return _Drawing(drawing.surface + depth * weight, drawing.plate, line > 0)


def _dent(drawing: _Drawing, generator: np.random.Generator) -> _Drawing:
    x, y = _free_spot(generator, 26)
    radius = float(generator.uniform(11, 24))
    rows, cols = np.mgrid[: _SIZE[0], : _SIZE[1]].astype(np.float32)
    dy, dx = (rows - y) / radius, (cols - x) / radius
    bump = np.exp(-2 * (dx**2 + dy**2))
    angle = generator.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * dx + np.sin(angle) * dy) * bump
    surface = drawing.surface + generator.uniform(0.35, 0.6) * slope.astype(np.float32)
    return _Drawing(surface, drawing.plate, bump > 0.25)


def _contamination(drawing: _Drawing, generator: np.random.Generator) -> _Drawing:
    x, y = _free_spot(generator, 34)
    stain = np.zeros(_SIZE, bool)
    for _ in range(int(generator.integers(1, 5))):
        offset = generator.normal(0, 14, 2)
        stain |= _disc((int(x + offset[0]), int(y + offset[1])), float(generator.uniform(6, 17)))
    ripple = cv2.GaussianBlur(generator.standard_normal(_SIZE).astype(np.float32), (0, 0), 4)
    weight = cv2.GaussianBlur(stain.astype(np.float32), (0, 0), 2.0)
    level = float(generator.uniform(0.15, 0.35)) + 0.3 * ripple
    opacity = float(generator.uniform(0.45, 0.8))
    surface = drawing.surface * (1 - weight * opacity) + level * weight * opacity
    return _Drawing(surface, drawing.plate, stain)


def _crack(drawing: _Drawing, generator: np.random.Generator) -> _Drawing:
    line = np.zeros(_SIZE, np.uint8)
    x, y = _HOLES[int(generator.integers(len(_HOLES)))]
    heading = np.arctan2(_BORE[1] - y, _BORE[0] - x) + generator.uniform(-0.9, 0.9)
    start = np.array([x, y]) + (_HOLE_RADIUS + 6) * np.array([np.cos(heading), np.sin(heading)])
    _walk(line, start, heading, steps=int(generator.integers(9, 18)), generator=generator)
    weight = cv2.GaussianBlur(line.astype(np.float32) / 255, (0, 0), 0.7)
    surface = drawing.surface - generator.uniform(0.25, 0.45) * weight
    wide = cv2.dilate(line, np.ones((3, 3), np.uint8))
    return _Drawing(surface, drawing.plate, wide > 0)


def _walk(
    line: np.ndarray,
    start: np.ndarray,
    heading: float,
    *,
    steps: int,
    generator: np.random.Generator,
) -> None:
    """Draw a jagged path that now and then forks."""
    place = start
    for step in range(steps):
        heading += generator.normal(0, 0.35)
        onward = place + 7 * np.array([np.cos(heading), np.sin(heading)])
        ends = [tuple(int(v) for v in point) for point in (place, onward)]
        cv2.line(line, ends[0], ends[1], 255, 2)
        if steps > 6 and step > 2 and generator.random() < 0.12:
            _walk(
                line, onward, heading + generator.choice([-0.8, 0.8]), steps=4, generator=generator
            )
        place = onward


_DEFECTS: dict[str, Callable[[_Drawing, np.random.Generator], _Drawing]] = {
    "scratch": _scratch,
    "dent": _dent,
    "contamination": _contamination,
    "crack": _crack,
}


def _pose(generator: np.random.Generator) -> np.ndarray:
    angle, scale = generator.uniform(-2.0, 2.0), 1 + generator.uniform(-0.01, 0.01)
    pose = cv2.getRotationMatrix2D((_SIZE[1] / 2, _SIZE[0] / 2), angle, scale)
    shift = np.zeros((2, 3))
    shift[:, 2] = generator.uniform(-5, 5, 2)
    return np.asarray(pose, dtype=np.float64) + shift


def _on_belt(surface: np.ndarray, plate: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    weave = 0.04 * cv2.GaussianBlur(
        generator.standard_normal(_SIZE).astype(np.float32), (0, 0), 1.5
    )
    shadow = cv2.GaussianBlur(np.roll(plate, (6, 5), (0, 1)), (0, 0), 7)
    belt = (0.16 + weave) * (1 - 0.5 * shadow)
    soft = cv2.GaussianBlur(plate, (0, 0), 0.8)
    placed: np.ndarray = belt * (1 - soft) + surface * soft
    return placed


def _light(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    rows, cols = np.mgrid[-1 : 1 : _SIZE[0] * 1j, -1 : 1 : _SIZE[1] * 1j].astype(np.float32)
    angle = generator.normal(0.6, 0.25)
    tilt = 0.07 * (np.cos(angle) * cols + np.sin(angle) * rows)
    gain = 1 + generator.uniform(-0.06, 0.06)
    lit: np.ndarray = picture * gain * (1 + tilt)
    return lit


def _camera(
    picture: np.ndarray, size: tuple[int, int], generator: np.random.Generator
) -> np.ndarray:
    sharp = cv2.GaussianBlur(picture, (0, 0), float(generator.uniform(0.5, 0.9)))
    seen = cv2.resize(sharp, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    noisy = seen + generator.normal(0, 0.008, size)
    tint = np.array([1.0, 0.985, 0.96])  # warm light: the camera sees colour
    rgb: np.ndarray = (np.clip(noisy[..., None] * tint, 0, 1) * 255).round().astype(np.uint8)
    return rgb


def _write(path: Path, pixels: np.ndarray, options: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    ok, data = cv2.imencode(path.suffix, bgr, options)
    if not ok:
        raise ValueError(f"OpenCV could not encode {path.suffix}")
    path.write_bytes(data.tobytes())
