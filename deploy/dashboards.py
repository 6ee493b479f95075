"""The Grafana dashboards, written from here: `python -m deploy.dashboards` (`make dashboards`).

Every panel has a title, a description, a unit and queries; `tests/deploy` checks that each metric
exists.
"""

import argparse
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    QueryVariable,
    Row,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, VariableRefresh

from deploy.boards import DASHBOARDS
from deploy.panels import SOURCE, panel

FOLDER = Path(__file__).parent / "grafana/dashboards"


def dashboard(name: str) -> str:
    """Return a dashboard as JSON."""
    title, description, rows = DASHBOARDS[name]
    built = (
        Dashboard(title)
        .uid(f"maskline-{name}")
        .description(description)
        .tags(["maskline"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .link(DashboardLink("Maskline").type(DashboardLinkType.DASHBOARDS).tags(["maskline"]))
    )
    if name == "line":
        built = _with_choices(built)
    for row, plots in rows.items():
        built = built.with_row(Row(row))
        for plot in plots:
            built = built.with_panel(panel(plot))
    encoded: str = JSONEncoder(sort_keys=True, indent=2).encode(built.build())
    return encoded + "\n"


def _with_choices(built: Dashboard) -> Dashboard:
    """Let people choose models and cameras, and lead to the rejected parts' results."""
    for name in ("model", "camera"):
        variable = (
            QueryVariable(name)
            .label(name.capitalize())
            .query(f"label_values(maskline_inspections_total, {name})")
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
        )
        built = built.with_variable(variable)
    address = TextBoxVariable("service").label("Service").default_value("http://localhost:8000")
    built = built.with_variable(address)
    rejects = (
        DashboardLink("Last rejects")
        .type(DashboardLinkType.LINK)
        .url("${service}/v1/results?verdict=NG&limit=100")
        .tooltip("Their results, at the address above; it wants an API key or MASKLINE_AUTH=off")
        .target_blank(True)
    )
    return built.link(rejects)


def main() -> None:
    """Write the files."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(dashboard(name), encoding="utf-8")


if __name__ == "__main__":
    main()
