"""Names of kinds of defects to names of folders, and back.

A folder has its kind's name where that names a folder anywhere and cannot be taken for something
else; other characters are written as `%` and the two digits of each byte (UTF-8), as in addresses:
`a/b` is `a%2Fb`. `good` would be read as good parts, and is `%67ood`. Names that are one on file
systems which ignore capitals, and for the reader of ground truth, are told apart the same way:
`scratch` and `%53cratch`.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from urllib.parse import unquote

from training.labels import is_mask_name, is_normal_name, is_unclear_name

_LONGEST = 200  # bytes
_PLAIN = "_-"
_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", "__macosx", "system volume information"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in range(10)]
)


def folders_of(kinds: Iterable[str]) -> dict[str, str]:
    """Return a folder's name for each kind, no two alike; kinds too long for one are left out."""
    names = sorted(set(kinds))
    alike = Counter(map(_folded, names))
    folders = {name: _folder(name, is_shared=alike[_folded(name)] > 1) for name in names}
    return {
        name: folder for name, folder in folders.items() if len(os.fsencode(folder)) <= _LONGEST
    }


def kind_of_folder(folder: str) -> str:
    """Return the kind that a folder of `folders_of` is for."""
    return unquote(folder, errors="surrogatepass")


def _folder(name: str, *, is_shared: bool) -> str:
    last = len(name) - 1
    folder = "".join(
        char if _is_plain(char, is_inside=0 < at < last, is_shared=is_shared) else _written(char)
        for at, char in enumerate(name)
    )
    return _written(name[0]) + folder[1:] if _means_else(folder) else folder


def _is_plain(char: str, *, is_inside: bool, is_shared: bool) -> bool:
    if char == " ":
        return is_inside
    if is_shared and not (char.isascii() and char == char.lower()):
        return False
    return char.isalnum() or char in _PLAIN


def _means_else(folder: str) -> bool:
    """Whether a folder of this name is not read as a kind of defect; nothing in it is encoded."""
    return (
        is_normal_name(folder)
        or is_mask_name(folder)
        or is_unclear_name(folder)
        or folder.casefold() in _RESERVED
    )


def _written(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
