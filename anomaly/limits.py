"""What is refused before any pixel is decoded. It knows no format."""

from dataclasses import dataclass

from anomaly.errors import ImageTooLarge, ImageTooSmall

MIN_SIDE_PX = 16
_MAX_SIDE_PX = 1_000_000  # libpng's own limit
_HARMLESS_BYTES = 32_000_000  # decoded; any ratio is allowed up to here


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before any pixel is decoded."""

    max_pixels: int = 100_000_000
    min_side_px: int = MIN_SIDE_PX
    max_ratio: float = 4000.0  # of decoded to encoded bytes; 8 grey bits of one value reach 3,100


DEFAULT_LIMITS = ImageLimits()
MASK_LIMITS = ImageLimits(max_ratio=25_000)  # one bit per pixel, all of one value


def check_size(
    size: tuple[int, int], encoded_bytes: int, limits: ImageLimits, *, sample_bytes: int = 1
) -> None:
    """Hold an image of (H, W), of so many bytes per sample, to the limits.

    Raises `ImageTooSmall` or `ImageTooLarge`.
    """
    height, width = size
    if min(height, width) < limits.min_side_px:
        raise ImageTooSmall(
            f"the image is {width}×{height} px; each side needs at least {limits.min_side_px} px"
        )
    if height * width > limits.max_pixels or max(height, width) > _MAX_SIDE_PX:
        raise ImageTooLarge(
            f"the image is {width}×{height} px, more than the limit of {limits.max_pixels} pixels "
            f"or of {_MAX_SIDE_PX} px a side; crop or reduce it before sending"
        )
    decoded_bytes = 3 * height * width * sample_bytes
    if decoded_bytes > max(_HARMLESS_BYTES, limits.max_ratio * encoded_bytes):
        raise ImageTooLarge(
            f"{encoded_bytes} bytes would decode to {decoded_bytes}: more than an image of a part "
            "needs; send it less compressed, or smaller"
        )
