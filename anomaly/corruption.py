"""Synthetic defects on normal images, to choose a scoring without seeing a real defect.

Each corruption paints a shape (blob, rectangle, stroke) of a size drawn from a wide range and fills
it from another normal image, a displaced part of the same one, a changed brightness, a blur, or
noise (after Perlin masks in DRAEM, Zavrtanik et al. 2021; CutPaste, Li et al. 2021). They resemble
no product's defects in particular. They choose among scorings; they never train a threshold.

Fine defects are as thin as a pixel of the canvas, as hairline cracks, scratches and specks are.
Diffuse defects have no edge: over a large area the brightness, the contrast, the sharpness or the
grain changes softly, as uneven light, a wrong coating or a denser tissue does.
"""

from collections.abc import Callable

import cv2
import numpy as np

from anomaly.types import RgbImage

_SMALLEST, _LARGEST = 0.03, 0.4  # of the shorter side
_LEAST_CHANGE = 0.02  # of full scale, mean over the shape: fainter copies teach nothing
_ATTEMPTS = 12
_DIFFUSE = (0.25, 0.8)  # of the shorter side
_SPECKS = 0.3  # share of fine defects; the others are walks
_WALKS = (0.05, 0.4)  # of the shorter side


def corrupt(
    image: RgbImage, donor: RgbImage, generator: np.random.Generator
) -> tuple[RgbImage, np.ndarray]:
    """Return a copy of `image` with one visible local defect, and its mask (H, W) bool.

    `donor` is another normal image of the set; it is resized where the sizes differ.
    """
    return _replaced(image, donor, generator, lambda: _shape(image.size, generator))


def corrupt_finely(
    image: RgbImage, donor: RgbImage, generator: np.random.Generator, pixel: float
) -> tuple[RgbImage, np.ndarray]:
    """Return a copy of `image` with a crooked hairline or a speck, and its mask (H, W) bool.

    A model's canvas has one pixel for each `pixel` of the image: strokes are as thin as one.
    """
    return _replaced(image, donor, generator, lambda: _fine_shape(image.size, generator, pixel))


def corrupt_diffusely(
    image: RgbImage, generator: np.random.Generator
) -> tuple[RgbImage, np.ndarray]:
    """Return a copy of `image` with one large, soft defect, and its mask (H, W) bool.

    The mask is where at least half of the change is.
    """

    def diffuse(original: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weight = _soft_area(image.size, generator)
        return _fill_diffusely(original, generator), weight, weight >= 0.5

    return _visible(image, diffuse)


def _replaced(
    image: RgbImage,
    donor: RgbImage,
    generator: np.random.Generator,
    shape: Callable[[], np.ndarray],
) -> tuple[RgbImage, np.ndarray]:
    """Fill a shape (H, W) bool of the image, drawn anew until the change is seen."""
    other = _fractions(cv2.resize(donor.pixels, image.size[::-1], interpolation=cv2.INTER_AREA))

    def local(original: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mask = shape()
        filled = _fill(original, other, generator)
        weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)
        return filled, weight * generator.uniform(0.5, 1.0), mask

    return _visible(image, local)


def _visible(
    image: RgbImage, draw: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> tuple[RgbImage, np.ndarray]:
    """Draw filling (H, W, 3), weight and mask (H, W) until the change is seen, or the best try."""
    original = _fractions(image.pixels)
    best, best_mask, best_change = original, np.zeros(image.size, bool), -1.0
    for _ in range(_ATTEMPTS):
        filled, weight, mask = draw(original)
        changed = original * (1 - weight[..., None]) + filled * weight[..., None]
        change = float(np.abs(changed - original)[mask].mean())
        if change > best_change:
            best, best_mask, best_change = changed, mask, change
        if change >= _LEAST_CHANGE:
            break
    white = _white(image.pixels.dtype)
    scaled = (best * white).round().clip(0, white)
    is_deep = image.pixels.dtype == np.uint16
    return RgbImage(scaled.astype(np.uint16) if is_deep else scaled.astype(np.uint8)), best_mask


def _white(dtype: np.dtype) -> float:
    return 65535.0 if dtype == np.uint16 else 255.0


def _fractions(pixels: np.ndarray) -> np.ndarray:
    """Pixels as float32 shares of full scale."""
    return pixels.astype(np.float32) / np.float32(_white(pixels.dtype))


def _shape(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    height, width = size
    extent = min(size) * _SMALLEST * (_LARGEST / _SMALLEST) ** generator.random()
    centre = (int(generator.uniform(0.1, 0.9) * width), int(generator.uniform(0.1, 0.9) * height))
    mask = np.zeros(size, np.uint8)
    kind = generator.integers(3)
    if kind == 0:
        return _blob(size, centre, extent, generator)
    angle = float(generator.uniform(0, 180))
    if kind == 1:
        sides = (extent, extent * float(generator.uniform(0.3, 1)))
        corners = cv2.boxPoints((centre, sides, angle))
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
    else:
        reach = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * extent
        start, end = np.array(centre) - reach, np.array(centre) + reach
        bend = (start + end) / 2 + generator.normal(0, 0.3, 2) * extent
        thickness = max(1, round(float(generator.uniform(0.005, 0.03)) * min(size)))
        line = np.stack([start, bend, end]).astype(np.int32)
        cv2.polylines(mask, [line], isClosed=False, color=1, thickness=thickness)
    mask[centre[1], centre[0]] = 1
    return mask.astype(bool)


def _fine_shape(size: tuple[int, int], generator: np.random.Generator, pixel: float) -> np.ndarray:
    """A speck, or a walk that turns as it goes."""
    mask = np.zeros(size, np.uint8)
    place = generator.uniform(0.08, 0.92, 2) * size[::-1]  # (x, y)
    if generator.random() < _SPECKS:
        half = np.maximum(1, np.round(pixel * generator.uniform(1.5, 6, 2))).astype(int).tolist()
        centre = (int(place[0]), int(place[1]))
        cv2.ellipse(mask, centre, half, float(generator.uniform(0, 180)), 0, 360, 1, -1)
        return mask.astype(bool)
    steps = int(generator.integers(2, 14))
    low, high = _WALKS
    stride = min(size) * low * (high / low) ** generator.random() / steps
    angle, turn = generator.uniform(0, 2 * np.pi), generator.uniform(0, 0.9)
    angles = angle + np.cumsum(generator.normal(0, turn, steps))
    walk = place + stride * np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0)
    points = np.round(np.concatenate([place[None], walk])).astype(np.int32)
    thickness = max(1, round(pixel * float(generator.uniform(0.8, 3.5))))
    cv2.polylines(mask, [points], isClosed=False, color=1, thickness=thickness)
    mask[int(place[1]), int(place[0])] = 1
    return mask.astype(bool)


def _blob(
    size: tuple[int, int], centre: tuple[int, int], extent: float, generator: np.random.Generator
) -> np.ndarray:
    """A disc with a wavy edge, after smooth noise."""
    rows, cols = np.ogrid[: size[0], : size[1]]
    angle = np.arctan2(rows - centre[1], cols - centre[0])
    radius = np.full(size, extent / 2)
    for wave in range(2, 6):
        phase = generator.uniform(0, 2 * np.pi)
        radius *= 1 + generator.uniform(0, 0.6 / wave) * np.sin(wave * angle + phase)
    inside: np.ndarray = np.hypot(rows - centre[1], cols - centre[0]) <= np.maximum(radius, 1)
    return inside


def _fill(original: np.ndarray, other: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    height, width = original.shape[:2]
    shift = (int(generator.integers(height)), int(generator.integers(width)))
    match generator.integers(5):
        case 0:
            filled = np.roll(other, shift, (0, 1))
        case 1:
            filled = np.roll(np.rot90(original, 2), shift, (0, 1))
        case 2:
            filled = original + generator.choice([-1, 1]) * generator.uniform(0.08, 0.5)
        case 3:
            filled = cv2.GaussianBlur(original, (0, 0), 0.02 * min(height, width) + 1)
        case _:
            noise = generator.normal(0, generator.uniform(0.05, 0.25), original.shape[:2])
            filled = (
                original + cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 1.0)[..., None] * 2
            )
    return np.asarray(np.clip(filled, 0, 1), np.float32)


def _soft_area(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """A lopsided hill without an edge, (H, W) in [0, 1]."""
    low, high = _DIFFUSE
    extent = min(size) * low * (high / low) ** generator.random()
    centre_y, centre_x = generator.uniform(0.1, 0.9, 2) * size
    rows, cols = np.ogrid[: size[0], : size[1]]
    angle = generator.uniform(0, np.pi)
    along = (cols - centre_x) * np.cos(angle) + (rows - centre_y) * np.sin(angle)
    across = (rows - centre_y) * np.cos(angle) - (cols - centre_x) * np.sin(angle)
    squared = along**2 + (across / generator.uniform(0.4, 1)) ** 2
    hill: np.ndarray = np.exp(-squared / (2 * (extent / 2) ** 2)).astype(np.float32)
    return hill


def _fill_diffusely(original: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    side = min(original.shape[:2])
    sign = generator.choice([-1, 1])
    match generator.integers(5):
        case 0:
            filled = original + sign * generator.uniform(0.05, 0.3)
        case 1:
            filled = original * (1 + sign * generator.uniform(0.1, 0.5))
        case 2:
            mean = cv2.GaussianBlur(original, (0, 0), 0.1 * side)
            filled = mean + (original - mean) * (1 + sign * generator.uniform(0.4, 0.9))
        case 3:
            filled = cv2.GaussianBlur(original, (0, 0), generator.uniform(0.01, 0.03) * side)
        case _:
            noise = generator.normal(0, 1, original.shape[:2]).astype(np.float32)
            grain = cv2.GaussianBlur(noise, (0, 0), generator.uniform(0.003, 0.015) * side)
            filled = original + generator.uniform(0.03, 0.12) * (grain / grain.std())[..., None]
    return np.asarray(np.clip(filled, 0, 1), np.float32)
