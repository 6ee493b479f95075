"""Dashboards and rules name metrics that exist, and each alert has its page."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.boards import DASHBOARDS, plots
from deploy.dashboards import FOLDER, dashboard
from service.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules.yml"
_FOREIGN = ("up", "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def known() -> set[str]:
    """Every name that can be asked for: our metrics with their suffixes, and what rules record."""
    names = set(_FOREIGN)
    for family in Metrics().registry.collect():
        names |= {
            family.name,
            *(f"{family.name}{s}" for s in ("_total", "_bucket", "_sum", "_count")),
        }
    return names | {rule["record"] for rule in rules() if "record" in rule}


def asked(expr: str) -> set[str]:
    return set(
        re.findall(r"\b(?:maskline_\w+|maskline:[\w:]+|process_\w+|DCGM_\w+|up(?=\{))", expr)
    )


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_files_are_what_the_code_writes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == dashboard(name), "run 'make dashboards'"


def test_every_panel_says_what_it_shows_and_asks_for_metrics_that_exist() -> None:
    names = known()
    titles = [(board, plot.title) for board, plot in plots()]
    assert len(titles) == len(set(titles)) >= 25
    for _, plot in plots():
        assert plot.description.endswith(".")
        assert plot.unit
        for query in plot.queries:
            assert asked(query.expr), plot.title
            assert asked(query.expr) <= names, plot.title


def test_every_rule_asks_for_metrics_that_exist() -> None:
    for rule in rules():
        assert asked(rule["expr"]) <= known(), rule


def test_every_alert_has_a_page_a_severity_and_a_test() -> None:
    text = (ROOT / "docs/alerts.md").read_text()
    tested = yaml.safe_load((RULES.parent / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tested for case in test.get("alert_rule_test", ())]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 12
    for rule in alerts:
        name = rule["alert"]
        assert f"\n## {name}\n" in text, name
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert name in fires, f"no test in which {name} fires"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")
def test_the_rules_fire_when_they_should_and_not_else() -> None:
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    for file in ("prometheus.yml", "rules.yml"):
        shutil.copy(RULES.parent / file, tmp_path / file)
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
