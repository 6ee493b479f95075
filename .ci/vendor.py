"""Write down what the page's bundle is made of: its digest, and each library's version and licence.

`python .ci/vendor.py`, after `make ui-vendor` has made the bundle.
"""

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "service/ui/vendor.js"
LOCK = ROOT / ".ci/ui/package-lock.json"
LIST = ROOT / "service/ui/vendor.json"
_NOT_BUNDLED = ("esbuild", "@esbuild/")


def bundled() -> dict[str, str]:
    """Return the version of each library in the bundle, by name."""
    packages = json.loads(LOCK.read_text(encoding="utf-8"))["packages"]
    names = {
        path.removeprefix("node_modules/"): row["version"] for path, row in packages.items() if path
    }
    return {name: version for name, version in names.items() if not name.startswith(_NOT_BUNDLED)}


def main() -> None:
    """Write the list."""
    digest = hashlib.sha256(BUNDLE.read_bytes()).hexdigest()
    document = {"sha256": digest, "libraries": bundled()}
    LIST.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
