"""Calibrated patch scores to maps, regions and pictures in the caller's pixels.

Pictures use one fixed scale anchored at the map threshold: half brightness is exactly the threshold
and twice the threshold is full, so that two parts can be compared by eye. Nothing is ever stretched
to the image at hand.

Pictures have the caller's size up to 32 million pixels; larger images are drawn at a half, a
quarter and so on, and everything is drawn in strips: six maps of 100 million float32 pixels would
take gigabytes.
"""

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.types import Detection, FloatArray, Placement, Region, RgbImage

_MIN_REGION_CANVAS_PX = 4
MOST_REGIONS = 50
# An NG part always shows where: if no place passes the map threshold by itself, the area within
# this share of the peak is reported.
_NG_LEVEL = 0.7
_FOOT = 0.5  # of the level: so far down a hill reaches where its detail is drawn
_DOUBT = 0.2  # added to the detail, so that what it does not see keeps its shape
_PEAK_SHARES = (0.5, 0.75)  # of a peak: where its area ends, nearer where a stronger one is close
_MOST_PICTURE_PX = 32_000_000
_STRIP_ROWS = 256


def canvas_map(patch_scores: FloatArray, canvas: tuple[int, int]) -> FloatArray:
    """Interpolate (rows, columns) patch scores to a canvas-sized map, (H, W) float32."""
    small = np.ascontiguousarray(patch_scores, dtype=np.float32)
    size = (canvas[1], canvas[0])
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), np.float32)


def coarse_map(detection: Detection) -> FloatArray | None:
    """Return a detection's map as it was before it was sharpened; None where it never was."""
    if detection.detail is None:
        return None
    return canvas_map(detection.patch_scores, detection.placement.canvas)


def source_map(anomaly_map: FloatArray, placement: Placement) -> FloatArray:
    """Cut the image out of its canvas and resize to the caller's (H, W)."""
    size = (placement.source[1], placement.source[0])
    inside = crop_to_image(anomaly_map, placement)
    return np.asarray(cv2.resize(inside, size, interpolation=cv2.INTER_LINEAR), np.float32)


def region_level(anomaly_map: FloatArray, map_threshold: float) -> float:
    """Return the map value above which an NG part's regions lie."""
    return min(map_threshold, _NG_LEVEL * float(anomaly_map.max()))


def sharpened(anomaly_map: FloatArray, detail: NDArray[np.uint8], level: float) -> FloatArray:
    """Gather what a map says of each suspicious place on the pixels that are altered.

    `detail` (H, W) says how likely each pixel is altered, 255 being sure. Every hill that rises
    above `level`, which is positive, keeps its height, and where the detail sees nothing also its
    shape; what lies around becomes less. No pixel rises above `level` that was not above it.
    """
    likely = detail.astype(np.float32) / 255 + _DOUBT
    foot = (anomaly_map > _FOOT * level).astype(np.uint8)
    _, labels = cv2.connectedComponents(foot, connectivity=8)
    fine = np.where(anomaly_map > 0, anomaly_map * (likely / likely.max()), anomaly_map)
    for hill in np.unique(labels[anomaly_map > level]):
        inside = labels == hill
        before, gathered = anomaly_map[inside], anomaly_map[inside] * likely[inside]
        height, highest = before.max(), gathered[before > level].max()
        limit = np.where(before > level, height, before)
        fine[inside] = np.minimum(gathered * (height / highest), limit)
    return np.asarray(fine, np.float32)


def picture_size(source: tuple[int, int]) -> tuple[int, int]:
    """Size of an image's pictures, both (H, W): its own, halved until it is not too much."""
    height, width = source
    while height * width > _MOST_PICTURE_PX:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def _strips(
    anomaly_map: FloatArray, placement: Placement, size: tuple[int, int]
) -> Iterator[tuple[slice, FloatArray]]:
    """Cut the map of an (H, W) picture into strips of rows; together they equal `source_map`."""
    inside = crop_to_image(anomaly_map, placement)
    height, rows = size[0], inside.shape[0]
    wide = cv2.resize(inside, (size[1], rows), interpolation=cv2.INTER_LINEAR)  # (rows, W)
    at = np.clip((np.arange(height) + 0.5) * (rows / height) - 0.5, 0, rows - 1)
    above = np.floor(at).astype(int)
    below, share = np.minimum(above + 1, rows - 1), (at - above).astype(np.float32)[:, None]
    for top in range(0, height, _STRIP_ROWS):
        strip = slice(top, min(top + _STRIP_ROWS, height))
        low, high = wide[above[strip]], wide[below[strip]]
        yield strip, np.asarray(low + (high - low) * share[strip], np.float32)


def anomalous_pixels(
    anomaly_map: FloatArray, placement: Placement, level: float
) -> NDArray[np.bool_]:
    """Say which pixels of a picture lie above a level, (H, W) of `picture_size`."""
    size = picture_size(placement.source)
    mask = np.empty(size, np.bool_)
    for strip, values in _strips(anomaly_map, placement, size):
        np.greater(values, level, out=mask[strip])
    return mask


def crop_to_image(canvas: FloatArray, placement: Placement) -> FloatArray:
    """Cut the part of a canvas that the image covers."""
    top, left, bottom, right = placement.box
    return canvas[top:bottom, left:right]


def find_regions(
    anomaly_map: FloatArray,
    placement: Placement,
    level: float,
    coarse: FloatArray | None = None,
) -> tuple[Region, ...]:
    """Areas of the canvas map around peaks above `level`, strongest first, in the caller's pixels.

    An area ends where the map falls to half of its peak, or to `level`: a strong defect raises its
    surroundings, too. What hangs together in fewer than four canvas pixels is dropped; at most 50
    regions are returned. Where the map was sharpened, `coarse` is what it was before: that says
    what belongs together, such as the pieces of a broken line, and the map how far each reaches.
    """
    fine = crop_to_image(anomaly_map, placement)
    inside = fine if coarse is None else crop_to_image(coarse, placement)
    above = (inside > level).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    regions = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        if area < _MIN_REGION_CANVAS_PX:
            continue
        window = slice(top, top + height), slice(left, left + width)
        member = labels[window] == label
        if fine[window][member].max() <= level:  # it stood beside what was altered
            continue
        hill = np.where(member, inside[window], np.float32(-np.inf))
        shapes = list(_parts(hill, level))
        if coarse is not None:
            shapes = list(_narrowed(shapes, fine[window], level))
        regions += [_region(fine[window], shape, (top, left), placement) for shape in shapes]
    if not regions and coarse is not None:
        return find_regions(coarse, placement, level)
    return tuple(sorted(regions, key=lambda r: -r.peak_score)[:MOST_REGIONS])


def _parts(hill: FloatArray, level: float) -> Iterator[NDArray[np.bool_]]:
    """Cut what hangs together above `level` into areas around its peaks, (h, w) bool each.

    A weaker peak is one of its own where the map falls to three quarters of it before it rises to a
    stronger one; otherwise it is on that one's slope.
    """
    left_over, covered = hill.copy(), np.zeros(hill.shape, np.bool_)
    for _ in range(MOST_REGIONS):
        peak = int(left_over.argmax())
        value = float(left_over.flat[peak])
        if value <= level:
            return
        for share in _PEAK_SHARES:
            part = _around(hill, peak, max(level, share * value) if value > 0 else level)
            if not (part & covered).any():
                if not covered.any() or part.sum() >= _MIN_REGION_CANVAS_PX:
                    yield part
                covered |= part
                break
        left_over[part] = -np.inf


def _narrowed(
    parts: Sequence[NDArray[np.bool_]], fine: FloatArray, level: float
) -> Iterator[NDArray[np.bool_]]:
    """Narrow areas of a hill to where its sharp map is at least half as high as its highest there.

    What is low on the sharp map stood on the slope of another, unless no area is high.
    """
    heights = [float(fine[part].max()) for part in parts]
    for part, height in zip(parts, heights, strict=True):
        if height > level or height == max(heights):
            yield part & (fine >= _PEAK_SHARES[0] * height)


def _around(hill: FloatArray, peak: int, level: float) -> NDArray[np.bool_]:
    """What hangs together with a peak (its flat index) at or above a level."""
    _, labels = cv2.connectedComponents((hill >= level).astype(np.uint8), connectivity=8)
    member: NDArray[np.bool_] = labels == labels.flat[peak]
    return member


def heat(anomaly_map: FloatArray, map_threshold: float) -> FloatArray:
    """Put a map on the fixed scale: 0 at or below 0, 0.5 at the threshold, 1 from twice it on."""
    scale = 2.0 * max(map_threshold, 1e-6)
    fixed: FloatArray = np.clip(anomaly_map / np.float32(scale), 0, 1).astype(np.float32)
    return fixed


def grey_png(anomaly_map: FloatArray, map_threshold: float, placement: Placement) -> bytes:
    """8-bit grey PNG in the caller's size, limited by `picture_size`; 128 is the threshold."""
    size = picture_size(placement.source)
    grey = np.empty(size, np.uint8)
    for strip, values in _strips(anomaly_map, placement, size):
        grey[strip] = _to_bytes(heat(values, map_threshold))
    return encode_grey(grey)


def encode_grey(grey: NDArray[np.uint8]) -> bytes:
    """Encode (H, W) uint8 as PNG, fast rather than small."""
    return _encode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def decode_grey(png: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read what `encode_grey` has written; raises `ValueError` if it is anything else."""
    grey = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ValueError("what should be a picture's grey values is no picture")
    return np.asarray(grey, np.uint8)


def thumbnail_size(source: tuple[int, int], side: int) -> tuple[int, int]:
    """Size of an image's small picture, both (H, W): its longer side is `side` at the most."""
    scale = min(1.0, side / max(source))
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def overlay(
    image: RgbImage,
    detection: Detection,
    white_level: int = 65535,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Blend the coloured map over the image, with the regions' boxes: (H, W, 3) RGB uint8.

    (H, W) is `size`, or the caller's, or what `picture_size` makes of that.
    """
    size = size or picture_size(image.source_size)
    pixels = _resized(image.pixels, size)
    picture = np.empty((*size, 3), np.uint8)
    for strip, values in _strips(detection.anomaly_map, detection.placement, size):
        level = heat(values, detection.map_threshold)
        picture[strip] = _tinted(_as_uint8(pixels[strip], white_level), level)
    _draw_boxes(picture, detection.regions, size[0] / image.source_size[0])
    return picture


def _tinted(picture: np.ndarray, level: FloatArray) -> np.ndarray:
    colours = cv2.cvtColor(
        cv2.applyColorMap(_to_bytes(level), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB
    )
    weight = np.clip((level - 0.25) * 1.5, 0, 0.6)[..., None]  # below half the threshold: no tint
    blended: np.ndarray = picture * (1 - weight) + colours * weight
    return blended.round().astype(np.uint8)


def _draw_boxes(picture: np.ndarray, regions: tuple[Region, ...], scale: float) -> None:
    thickness = max(1, round(math.sqrt(picture.shape[0] * picture.shape[1]) / 350))
    for region in regions:
        x, y, width, height = (round(scale * value) for value in region.bbox)
        end = x + max(1, width) - 1, y + max(1, height) - 1
        cv2.rectangle(picture, (x, y), end, (255, 255, 255), thickness)


def encode_png(rgb: np.ndarray) -> bytes:
    """Encode (H, W, 3) RGB uint8 as PNG, fast rather than small."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _encode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def encode_jpeg(rgb: np.ndarray, quality: int = 85) -> bytes:
    """Encode (H, W, 3) RGB uint8 as JPEG."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _encode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])


def as_uint8(image: RgbImage, white_level: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Show an image of any depth in 8 bits, by its white level, in a size or `picture_size`."""
    size = size or picture_size(image.source_size)
    return _as_uint8(_resized(image.pixels, size), white_level)


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    shrinks = pixels.shape[0] > size[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, size[::-1], interpolation=interpolation)


def _as_uint8(pixels: np.ndarray, white_level: int) -> np.ndarray:
    """Show pixels of any depth in 8 bits, by their declared white level."""
    if pixels.dtype == np.uint8:
        return pixels
    scaled = pixels.astype(np.float32) * (255.0 / white_level)
    pixels_8bit: np.ndarray = np.clip(scaled, 0, 255).round().astype(np.uint8)
    return pixels_8bit


def _region(
    hill: FloatArray, part: NDArray[np.bool_], corner: tuple[int, int], placement: Placement
) -> Region:
    """Describe an area of a window whose (top, left) is `corner`, in canvas pixels."""
    rows, columns = (place + at for place, at in zip(np.nonzero(part), corner, strict=True))
    values = hill[part]
    peak_y, peak_x = (int(at[values.argmax()]) for at in (rows, columns))
    y0, x0 = _inner_to_source(placement, rows.min(), columns.min())
    y1, x1 = _inner_to_source(placement, rows.max() + 1, columns.max() + 1)
    py, px = _inner_to_source(placement, peak_y + 0.5, peak_x + 0.5)
    cy, cx = _inner_to_source(placement, rows.mean() + 0.5, columns.mean() + 0.5)
    x, y = int(x0), int(y0)
    box = (x, y, max(1, int(np.ceil(x1)) - x), max(1, int(np.ceil(y1)) - y))
    scale_y, scale_x = placement.scale
    return Region(
        bbox=box,
        area_px=max(1, round(rows.size * scale_y * scale_x)),
        peak=(min(int(px), placement.source[1] - 1), min(int(py), placement.source[0] - 1)),
        centroid=(round(float(cx), 2), round(float(cy), 2)),
        peak_score=float(values.max()),
    )


def _inner_to_source(placement: Placement, y: float, x: float) -> tuple[float, float]:
    return placement.to_source(y + placement.box[0], x + placement.box[1])


def _to_bytes(unit: FloatArray) -> np.ndarray:
    scaled: np.ndarray = (unit * 256).clip(0, 255).astype(np.uint8)
    return scaled


def _encode(extension: str, pixels: np.ndarray, options: list[int]) -> bytes:
    ok, buffer = cv2.imencode(extension, pixels, options)
    if not ok:
        raise ValueError(f"OpenCV could not encode {extension}")
    return buffer.tobytes()
