"""What an image is, whatever its file is called: the SHA-256 of its bytes.

A model's card keeps the first 64 bits of them, so that nobody calibrates it on what it was trained
on. A picture that was encoded anew is another one here.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from training.samples import Sample

_THREADS = 4
_HEX = 16  # digits of a digest that a card keeps: 64 bits
_MOST_IN_CARD = 50_000


def with_digests(samples: Iterable[Sample]) -> list[Sample]:
    """Fill in the digests; that of an empty or unreadable file stays empty."""
    samples = list(samples)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(_digest, (s.path if not s.digest else None for s in samples))
        return [
            replace(sample, digest=digest) if digest else sample
            for sample, digest in zip(samples, digests, strict=True)
        ]


def _digest(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return digest if file.tell() else ""
    except OSError:
        return ""


def names_and_digests(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Return the identity of a list of images: each one's path below its set, and its bytes."""
    return [(s.name or s.path.name, s.digest) for s in with_digests(samples)]


def card_digests(samples: Iterable[Sample], before: str = "") -> str:
    """Add digests to a card's, in one string; of very many images only the smallest digests."""
    digests = {sample.digest[:_HEX] for sample in with_digests(samples) if sample.digest}
    digests |= _parsed(before)
    return "".join(sorted(digests)[:_MOST_IN_CARD])


def seen(samples: Iterable[Sample], card: str) -> list[Sample]:
    """Return those of the images that a card holds, under whatever name."""
    digests = _parsed(card)
    return [s for s in with_digests(samples) if s.digest and s.digest[:_HEX] in digests]


def _parsed(card: str) -> set[str]:
    return {card[i : i + _HEX] for i in range(0, len(card), _HEX)}


def is_cut(card: str) -> bool:
    """Whether there may have been more images than a card holds."""
    return len(card) >= _HEX * _MOST_IN_CARD
