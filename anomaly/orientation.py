"""Which way up an image is: from EXIF or XMP to upright pixels.

A sound picture is never refused for its orientation: a value other than 1 to 8 means upright.
"""

import re

import numpy as np

from anomaly.directory import Directory, is_tiff, read_directories
from anomaly.errors import CorruptImage

UPRIGHT = 1
ORIENTATION_TAG = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)  # those that swap height and width
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])[\"'<]")


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Read the orientation, 1 to 8, from the content of EXIF, or else of XMP."""
    if is_tiff(exif):
        try:
            directory = next(read_directories(exif), None)  # EXIF may have none at all
            if directory is not None and ORIENTATION_TAG in directory:
                return tagged_orientation(directory)
        except CorruptImage:
            return UPRIGHT
    stated = _XMP.search(xmp)
    return int(stated[1]) if stated else UPRIGHT


def tagged_orientation(directory: Directory) -> int:
    """Read the orientation, 1 to 8, from a directory's tag."""
    try:
        value = directory.plain_integer(ORIENTATION_TAG, UPRIGHT)
    except CorruptImage:
        return UPRIGHT
    return value if 1 <= value <= 8 else UPRIGHT


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(H, W) once an image of (H, W) is turned upright."""
    return size[::-1] if orientation in _ON_ITS_SIDE else size


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels (H, W, 3) upright from EXIF orientation 1 to 8."""
    if orientation in (2, 4, 5, 7):  # mirrored kinds: mirror first, then turn as the sibling
        pixels = pixels[:, ::-1]
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(pixels, quarter_turns)
