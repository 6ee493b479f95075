"""Files of the page, read once: what a request names is looked up, and never reaches a disk."""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response

_TEXT = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_PACKED = {".png": "image/png", ".jpg": "image/jpeg", ".woff2": "font/woff2"}
_TAG = re.compile(r'"([^"]*)"')
_GZIP = "-gzip"


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file as it is sent; `gzipped` where that is shorter."""

    body: bytes
    gzipped: bytes | None
    media_type: str
    sha256: str


def read_folder(folder: Path) -> dict[str, StaticFile]:
    """Read the files under a folder, by their paths in it; those of no known kind are left out."""
    media_types = {kind: f"{name}; charset=utf-8" for kind, name in _TEXT.items()} | _PACKED
    return {
        path.relative_to(folder).as_posix(): _static_file(path, media_types[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in media_types
    }


def answer(file: StaticFile, headers: Headers, extra: Mapping[str, str]) -> Response:
    """Send a file, or 304 where the browser has it: it asks each time, so versions never mix."""
    body, tag = file.body, file.sha256
    if file.gzipped is not None and takes_gzip(headers.get("accept-encoding", "")):
        body, tag = file.gzipped, tag + _GZIP
    sent = {
        "Cache-Control": "no-cache",
        "ETag": f'"{tag}"',
        "Vary": "Accept-Encoding",
        **extra,
    }
    if has_tag(headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=sent)
    if tag.endswith(_GZIP):
        sent["Content-Encoding"] = "gzip"
    # By hand: Starlette adds a charset to whatever is text.
    return Response(body, headers=sent | {"Content-Type": file.media_type})


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an `Accept-Encoding` header takes gzip (RFC 9110, 12.5.3)."""
    weights: dict[str, str] = {}
    for choice in accept_encoding.lower().split(","):
        name, _, weight = choice.partition(";")
        weights[name.strip()] = weight.replace(" ", "").removeprefix("q=")
    weight = weights.get("gzip", weights.get("*", "0"))
    return weight.strip("0.") != "" or weight == ""


def has_tag(if_none_match: str, tag: str) -> bool:
    """Whether an `If-None-Match` header has this tag, weakly compared (RFC 9110, 13.1.2)."""
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


def _static_file(path: Path, media_type: str) -> StaticFile:
    body = path.read_bytes()
    gzipped = None
    if path.suffix in _TEXT and len(packed := gzip.compress(body, 9, mtime=0)) < len(body):
        gzipped = packed
    return StaticFile(body, gzipped, media_type, hashlib.sha256(body).hexdigest())
