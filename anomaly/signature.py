"""Names what is no JPEG, PNG, BMP or TIFF, so that the sender knows what to change."""

import re

_STARTS = (
    (b"GIF8", "a GIF"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "a Photoshop file"),
    (b"v/1\x01", "OpenEXR"),
    (b"SIMPLE  =", "FITS"),
    (b"\x8aMNG", "MNG"),
    (b"\x8bJNG", "JNG"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"qoif", "QOI"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "HDF5"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska)"),
)
_BOXES = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "a raw photo (CR3)"}
_BOXES |= dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC")
_BASE64 = (b"/9j/", b"iVBORw0KGgo", b"SUkqA", b"TU0AK", b"UklGR", b"R0lGOD", b"Qk0", b"AAAA")
_BASE64_ONLY = re.compile(rb"[A-Za-z0-9+/_=\s-]{32,}")
_NETPBM = re.compile(rb"P[1-7FfAy]\s")


def name_of(data: bytes) -> str | None:
    """Name the format of the bytes if it is recognised: `WebP`, `a PDF`, `base64 text`."""
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF":
        return "WebP" if data[8:12] == b"WEBP" else "a RIFF file (video or sound)"
    if data[4:8] == b"ftyp":
        return _BOXES.get(data[8:12], "HEIC, AVIF or a video (an ISO media file)")
    if data[128:132] == b"DICM":
        return "DICOM"
    if _NETPBM.match(data):
        return "Netpbm (PGM, PPM)"
    return _text_of(data)


def _text_of(data: bytes) -> str | None:
    head = data[:2048].lstrip(b"\xef\xbb\xbf \t\r\n").strip()
    if head[:5].lower() == b"data:":
        return "the text of a data URI"
    if head.strip(b"\"'").startswith(_BASE64) and _BASE64_ONLY.fullmatch(head.strip(b"\"'")):
        return "base64 text"
    if head[:1] in (b"{", b"[") or head[:2] == b'"/':
        return "JSON"
    if head.startswith(b"<"):
        return _markup_of(head.lower())
    return "base64 text" if len(head) > 64 and _BASE64_ONLY.fullmatch(head) else None


def _markup_of(head: bytes) -> str:
    if b"<svg" in head:
        return "SVG"
    return "HTML" if b"<html" in head or b"<!doctype html" in head else "XML"
