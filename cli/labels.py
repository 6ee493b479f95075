"""Commands for labels: look at a set of any format, convert it."""

from pathlib import Path
from typing import Annotated

import typer

labels = typer.Typer(
    help="Labels of annotation tools: show them, convert them.", no_args_is_help=True
)

_FORMATS = "mvtec, coco, yolo, labelme, cvat, labelstudio or lookout"
Source = Annotated[Path, typer.Argument(help="Folder or file of labels, as the tool exported it.")]
From = Annotated[
    str, typer.Option("--from", help=f"Its format: {_FORMATS}; recognised where it is clear.")
]
ImagesFolder = Annotated[
    Path | None,
    typer.Option("--images", help="Folder of the images, where they do not lie beside the labels."),
]


@labels.command("show")
def show(source: Source, from_: From = "", images: ImagesFolder = None) -> None:
    """Count images, kinds, masks and boxes, and say what is odd."""
    from training.annotations.formats import FORMATS, read_labels, recognised
    from training.annotations.summary import odd, table

    name = from_ or recognised(source)
    read = read_labels(source, name, images)
    typer.echo(f"{source}: {FORMATS[name].title}")
    typer.echo(table(read))
    for line in odd(read):
        typer.echo(f"note: {line}")


@labels.command("convert")
def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(help="New folder for images and labels.")],
    to: Annotated[
        str, typer.Option("--to", help=f"Its format: {_FORMATS}; maskline train reads mvtec.")
    ],
    *,
    from_: From = "",
    images: ImagesFolder = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what a conversion wrote there before.")
    ] = False,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Leave out what the format has no place for.")
    ] = False,
    fill_boxes: Annotated[
        bool,
        typer.Option("--fill-boxes", help="Take all of a box for defective: it becomes a mask."),
    ] = False,
) -> None:
    """Write labels in another format; images are linked or copied, never encoded anew."""
    from training.annotations.formats import Conversion
    from training.annotations.formats import convert as run
    from training.annotations.summary import table

    how = Conversion(to, from_, images, force=force, is_lossy=lossy, fill_boxes=fill_boxes)
    written, lost = run(source, target, how)
    typer.echo(table(written))
    for line in written.notes:
        typer.echo(f"note: {line}")
    for line in lost:
        typer.echo(f"left out: {line}")
    typer.echo(f"written to {target}")
    if to == "mvtec":
        typer.echo(f"next: maskline train {target} --out MODEL")
