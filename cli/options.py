"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from service.http.api_keys import Role

KeyName = Annotated[str, typer.Argument(help="Whose key it is: a camera PC, a person.")]
KeyRoles = Annotated[
    list[Role] | None,
    typer.Option(
        "--role",
        help="score: inspect. view: read results. review: judge them as well. operate: all of "
        "that, and switch models. admin: everything. read: models and metrics. May be repeated; "
        "score without one.",
    ),
]
KeysFile = Annotated[
    Path | None, typer.Option(help="Default: MASKLINE_KEYS_FILE, or keys.json here.")
]
RecordDir = Annotated[
    Path | None, typer.Option(help="Default: MASKLINE_RECORD_DIR, or results here.")
]
Data = Annotated[
    Path,
    typer.Argument(
        help="Set in one of the usual layouts, folder of normal images, or .jsonl manifest."
    ),
]
Model = Annotated[Path, typer.Argument(help="Model folder.")]
Rate = Annotated[
    float | None,
    typer.Option(
        help="Share of normal parts that may be rejected; without one, what so many parts tell "
        "well: 10 % by thirty of them, 1 % by three hundred.",
        min=0.0,
        max=1.0,
    ),
]
WarnRate = Annotated[
    float | None,
    typer.Option(
        help="Answer WARN between the thresholds for this rate and for the false-alarm rate.",
        min=0.0,
        max=1.0,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Set the threshold by hand, at this score, whatever the rate says; the rate still "
        "draws the heatmaps.",
    ),
]
Camera = Annotated[
    str | None, typer.Option(help="The calibration of this camera or product alone.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="What counts as one independent part: image, session, folder, or a regular expression "
        "on the path whose first group is the session."
    ),
]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Skip files that cannot be read.")]
ProgressFile = Annotated[
    Path | None,
    typer.Option(
        help="JSON file that says how far it is (stage, done, total, images_per_s, left_s, loss), "
        "replaced at most twice a second; instead of bars on the terminal."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override of the recipe, key.sub=value.")
]
EscapeCost = Annotated[
    float | None,
    typer.Option(
        help="What a defective part costs that passes, in any currency: says which rate costs the "
        "least. Needs --defect-rate.",
    ),
]
FalseAlarmCost = Annotated[
    float, typer.Option(help="What a good part costs that is rejected, in the same currency.")
]
DefectRate = Annotated[
    float | None, typer.Option(help="Share of the parts that are defective, 0.01 for 1 %.")
]
Defects = Annotated[
    Path | None,
    typer.Option(help="Folder of parts found to be defective: their scores say what is caught."),
]
