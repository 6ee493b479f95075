"""Write what Maskline is made of, as CycloneDX: `make sbom`.

Of the wheel: the package and all that it needs at run time, as it is installed here, without the
tools of development. Of the image: its Python packages and Debian's, read out of the image where
Docker has it.
"""

import json
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "maskline"
IMAGE = "maskline:latest"
IN_IMAGE = ("python.cdx.json", "debian.cdx.json")  # the Dockerfile writes both to /opt/sbom


def main(out: Path) -> int:
    """Write the documents to a folder; return the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    written = [_of_wheel(out), *_of_image(out)]
    for path, document in written:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"{path}: {len(document['components'])} components")
    if len(written) == 1:
        print(f"no image {IMAGE} here: `docker build -t {IMAGE} .` and run this again for its own")
    return 0


def runtime(package: str = PACKAGE) -> set[str]:
    """Return the names of what an installed package needs to run, itself not included."""
    names: set[str] = set()
    waiting = deque([(package, frozenset[str]())])
    seen = set(waiting)
    while waiting:
        name, extras = waiting.popleft()
        for need in _needs(name, extras):
            names.add(canonicalize_name(need.name))
            following = (canonicalize_name(need.name), frozenset(need.extras))
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return names


def _needs(name: str, extras: Iterable[str]) -> list[Requirement]:
    """Return a package's requirements that hold on this machine; none if it is not installed."""
    try:
        stated = distribution(name).requires or []
    except PackageNotFoundError:  # an extra of another system
        return []
    needs = [Requirement(text) for text in stated]
    return [
        need
        for need in needs
        if need.marker is None
        or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def only(document: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return a document with the named components alone, and the dependencies among them.

    Raises `ValueError` where one that is named is missing, but for those that are not installed.
    """
    components = [one for one in document["components"] if canonicalize_name(one["name"]) in names]
    present = {canonicalize_name(one["name"]) for one in components}
    if missing := sorted(name for name in names - present if _is_installed(name)):
        raise ValueError(f"the inventory lacks {', '.join(missing)}")
    root = document["metadata"]["component"]["bom-ref"]
    references = {root, *(one["bom-ref"] for one in components)}
    dependencies = [
        {**edge, "dependsOn": [ref for ref in edge["dependsOn"] if ref in references]}
        if "dependsOn" in edge
        else edge
        for edge in document["dependencies"]
        if edge["ref"] in references
    ]
    return {**document, "components": components, "dependencies": dependencies}


def _of_wheel(out: Path) -> tuple[Path, dict[str, Any]]:
    tool = Path(sys.executable).with_name("cyclonedx-py")
    command = [tool, "environment", sys.executable, "--pyproject", "pyproject.toml"]
    done = subprocess.run(
        [*command, "--mc-type", "application", "--output-reproducible", "-o", "-"],
        check=True,
        capture_output=True,
        text=True,
    )
    document = only(json.loads(done.stdout), runtime())
    return out / f"{PACKAGE}-{version(PACKAGE)}.cdx.json", document


def _of_image(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    docker = shutil.which("docker")
    if docker is None:
        return []
    documents = []
    for name in IN_IMAGE:
        command = [docker, "run", "--rm", "--entrypoint", "cat", IMAGE, f"/opt/sbom/{name}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            return []
        path = out / f"{PACKAGE}-{version(PACKAGE)}-image-{name}"
        documents.append((path, json.loads(done.stdout)))
    return documents


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "sbom")))
