"""Commands that serve, show, and look at the machine."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AsJson, Overrides
from cli.output import print_json


def serve(
    models: Annotated[
        Path | None, typer.Option(help="A model folder, or a folder of models.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    *,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve without API keys: to whoever reaches the port.")
    ] = False,
) -> None:
    """Serve models over HTTP; everything else is set by MASKLINE_* in the environment."""
    from service.run import serve as run

    auth = "off" if no_auth else None
    overrides = {"models_dir": models, "host": host, "port": port, "device": device, "auth": auth}
    settings = {name: value for name, value in overrides.items() if value is not None}
    run(announce=lambda address: typer.echo(f"open {address}"), **settings)


def demo(
    folder: Annotated[Path, typer.Option(help="Where to work.")] = Path("maskline-demo"),
    serve: Annotated[bool, typer.Option(help="Serve the model at the end.")] = True,
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 8000,
    *,
    recipe: Annotated[str, typer.Option(help="Recipe name or TOML file.")] = "demo",
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Do the whole job on drawn parts: generate, train, calibrate, evaluate, and serve a page."""
    from service.run import free_port
    from training.config import load_recipe
    from training.demo import run_demo
    from training.evaluate import format_table
    from training.synthetic import PartsConfig

    if serve:
        free_port("127.0.0.1", port).close()  # better to fail now than after the training
    config = load_recipe(recipe, set_ or ())
    demo_run = run_demo(folder, config, PartsConfig(), say=lambda line: typer.echo(line, err=True))
    if as_json:
        print_json(demo_run.figures)
    else:
        typer.echo("\n" + format_table(demo_run.figures))
        typer.echo(f"\nreport and pictures: {demo_run.report}")
    typer.echo("Try it, from another terminal:" if serve else "To serve the model:", err=True)
    command = f"    maskline serve --models {demo_run.models} --port {port} --no-auth\n"
    typer.echo(("" if serve else command) + f"    {curl_line(demo_run.example, port)}", err=True)
    if serve:
        from cli.demo_line import send_in_background
        from service.run import serve as run

        send_in_background(demo_run.parts, port)
        run(
            announce=lambda address: typer.echo(f"open {address}", err=True),
            models_dir=demo_run.models,
            host="127.0.0.1",
            port=port,
            auth="off",
            record_dir=demo_run.models.parent / "results",
            keep="all",
        )


def doctor(
    models: Annotated[Path | None, typer.Option(help="Also check the models here.")] = None,
    port: Annotated[int, typer.Option(help="Port the service would use.")] = 8000,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has, what would be used, and what is missing."""
    from training.doctor import examine

    findings = examine(models, port)
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.mark}  {finding.name:<14}{finding.text}")
    if any(finding.is_problem for finding in findings):
        raise typer.Exit(2)


def curl_line(image: Path, port: int) -> str:
    """Return the exact command that scores an image."""
    return (
        f"curl -sS -H 'Content-Type: image/jpeg' --data-binary @{image} "
        f"'http://127.0.0.1:{port}/score?part_id=demo-1&heatmap=none'"
    )
