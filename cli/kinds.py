"""Commands that teach a model what defects are called."""

import typer

from cli.options import AsJson, Data, Model
from cli.output import print_json

kinds = typer.Typer(help="What defects are called: learn from labelled folders, and show.")


@kinds.command()
def learn(model: Model, data: Data, *, as_json: AsJson = False) -> None:
    """Teach a model the kinds of defects in test/<kind> folders, or of a manifest's labels.

    The regions that the model finds on these parts are kept in its folder; whatever was learned
    from folders before is replaced. What people say to a running service is learned there besides.
    """
    from training.data import open_dataset, say
    from training.kinds import learn_kinds

    dataset = open_dataset(data, near_copies=False)
    say(dataset.listing)
    bundle, learned = learn_kinds(model, dataset.samples)
    assert learned.examples is not None
    if as_json:
        examples, parts = dict(learned.examples.counts), dict(learned.parts)
        print_json({"version": bundle.version, "examples": examples, "parts": parts})
        return
    typer.echo(f"{model}, version {bundle.version}, learned")
    for kind, count in sorted(learned.parts.items()):
        regions = learned.examples.counts.get(kind, 0)
        passed = learned.passed[kind]
        without = f"; nothing was found on {passed}" if passed else ""
        typer.echo(f"  {kind}: {regions} regions of {count} parts{without}")


@kinds.command()
def show(model: Model, *, as_json: AsJson = False) -> None:
    """Say what kinds a model has learned from folders."""
    from anomaly.bundle import load_bundle

    bundle = load_bundle(model, check_golden=False, with_graph=False)
    counts = {} if bundle.examples is None else dict(bundle.examples.counts)
    if as_json:
        print_json({"version": bundle.version, "examples": counts})
        return
    if not counts:
        typer.echo(f"{model} has learned no kinds from folders; see 'maskline kinds learn'")
    for kind, count in counts.items():
        typer.echo(f"  {kind}: {count} regions")
