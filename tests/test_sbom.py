import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("sbom", _ROOT / ".ci" / "sbom.py")
assert _SPEC is not None
assert _SPEC.loader is not None
sbom = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sbom)


def document(*names: str) -> dict[str, Any]:
    """An inventory in which everything needs everything."""
    refs = ["root", *(f"{name}==1" for name in names)]
    return {
        "metadata": {"component": {"bom-ref": "root", "name": "maskline"}},
        "components": [{"name": name, "bom-ref": f"{name}==1"} for name in names],
        "dependencies": [{"ref": ref, "dependsOn": refs} for ref in refs],
    }


def test_what_runs_is_listed_and_what_develops_is_not() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    names = sbom.runtime()
    for text in project["dependencies"]:
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate():
            assert canonicalize_name(need.name) in names
    assert {"sympy", "h11", "pydantic-core"} <= names  # needed by what is needed
    tools = {"pytest", "ruff", "mypy", "hypothesis", "cyclonedx-bom", "transformers"}
    assert not tools & names


def test_an_inventory_is_cut_down_to_what_is_named() -> None:
    left = sbom.only(document("numpy", "pytest", "SQLAlchemy"), {"numpy", "sqlalchemy"})
    assert [one["name"] for one in left["components"]] == ["numpy", "SQLAlchemy"]
    assert "pytest" not in json.dumps(left)
    assert left["dependencies"][0]["dependsOn"] == ["root", "numpy==1", "SQLAlchemy==1"]


def test_an_inventory_that_lacks_what_is_installed_is_refused() -> None:
    with pytest.raises(ValueError, match="numpy"):
        sbom.only(document("pillow"), {"pillow", "numpy", "a-package-of-another-system"})


def test_the_image_holds_the_documents_that_are_read_out_of_it() -> None:
    dockerfile = (_ROOT / "Dockerfile").read_text()
    for name in sbom.IN_IMAGE:
        assert f"/opt/sbom/{name}" in dockerfile
    assert re.search(r"^COPY --from=build /opt/sbom /opt/sbom$", dockerfile, re.MULTILINE)
