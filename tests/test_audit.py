import importlib.util
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).parent.parent / ".ci" / "audit.py"
_SPEC = importlib.util.spec_from_file_location("audit", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)

GOOD = {"name": "numpy", "version": "2.1", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "not found"}
BAD = {
    "name": "pillow",
    "version": "9.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["9.0.1"]}],
}


@pytest.mark.parametrize(
    ("found", "required", "status", "said"),
    [
        ([GOOD, GOOD], False, 0, "2 packages without"),
        ([GOOD, SKIPPED], True, 0, "not looked up: torch"),
        ([GOOD, BAD, SKIPPED], False, 1, "pillow 9.0: PYSEC-1, mended in 9.0.1"),
        ([SKIPPED], False, 0, "NOT AUDITED"),
        ([SKIPPED], True, 1, "NOT AUDITED"),
        ([], False, 0, "NOT AUDITED"),
    ],
)
def test_the_audit_fails_for_what_is_known_and_says_when_it_knows_nothing(
    found: list[dict[str, Any]], required: bool, status: int, said: str
) -> None:
    code, text = audit.judge(found, required=required)
    assert code == status
    assert said in text


def test_an_accepted_advisory_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(audit.ACCEPTED, "PYSEC-1", "only for GIF")
    assert audit.judge([BAD], required=True)[0] == 0
