"""Look the pinned packages up among known vulnerabilities: `make audit`.

Fails for a known one. Where no database can be reached (a plant without internet) it says that
nothing was audited and passes, unless AUDIT=required.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Advisories that do not concern this use: identifier to reason. Empty is best.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    """Return the exit status."""
    audit = Path(sys.executable).with_name("pip-audit")
    command = [str(audit), "-r", "constraints.txt", "--no-deps", "--disable-pip", "-f", "json"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off", "--timeout", "10"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        found = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        found = []
    except ValueError:  # no JSON: it broke off, as it does without a network
        print("\n".join(done.stderr.strip().splitlines()[-1:]), file=sys.stderr)
        found = []
    status, said = judge(found, required=os.environ.get("AUDIT") == "required")
    print(said)
    return status


def judge(found: list[dict[str, Any]], *, required: bool) -> tuple[int, str]:
    """Return the exit status and what to say of pip-audit's list of packages."""
    unknown = [one["name"] for one in found if "skip_reason" in one]
    bad = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in "
        f"{', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in found
        for flaw in one.get("vulns", [])
        if flaw["id"] not in ACCEPTED
    ]
    if bad:
        return 1, "\n".join(["known vulnerabilities:", *bad])
    if len(unknown) == len(found):
        return int(required), (
            "NOT AUDITED: no database of vulnerabilities can be reached from here; run `make "
            "audit` on a machine with internet before a release"
        )
    checked = f"{len(found) - len(unknown)} packages without a known vulnerability"
    return 0, checked + (f"; not looked up: {', '.join(sorted(unknown))}" if unknown else "")


if __name__ == "__main__":
    sys.exit(main())
