"""The command that makes a set to learn from of what people said of recorded parts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cli.labelled_folder import Collection


def collect(
    output: Annotated[Path, typer.Option(help="New folder for the set.")],
    model: Annotated[
        str | None, typer.Option(help="Parts of this model; needed where there are several.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", "--folder", help="Default: MASKLINE_RECORD_DIR, or results here."),
    ] = None,
) -> None:
    """Write what people labelled - pictures, kinds, masks - as a folder that training reads.

    It reads the record beside a running service and changes nothing there.
    """
    from collections import Counter
    from os.path import realpath

    from cli.labelled_folder import labelled_results, write_folder
    from cli.report import images_to_read, store_to_read
    from service.run import read_settings
    from training.outputs import check_new_folder
    from training.progress import SHOWN

    settings = read_settings(**({} if record is None else {"record_dir": record}))
    check_new_folder(output, [settings.record_dir])
    left_out: Counter[str] = Counter()
    store = store_to_read(settings)
    try:
        labelled = labelled_results(store, model, left_out)
    finally:
        store.close()
    collection = write_folder(labelled, images_to_read(settings), Path(realpath(output)), SHOWN)
    collection.left_out.update(left_out)
    _say(output, collection)


def _say(output: Path, collection: "Collection") -> None:
    typer.echo(
        f"{output}: {collection.good} good parts, {collection.kinds.total()} with a defect, "
        f"{collection.masks.total()} of those with a mask"
    )
    for kind, count in collection.kinds.most_common():
        folder = collection.folders[kind]
        where = "" if folder == kind else f", in test/{folder}"
        typer.echo(f"  {kind}: {count}, {collection.masks[kind]} with a mask{where}")
    for reason, count in collection.left_out.most_common():
        typer.echo(f"left out: {count}: {reason}")
    if not collection.good:
        typer.echo("note: nobody called a kept part good, so that there is no train/good")
