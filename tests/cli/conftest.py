from typer.testing import CliRunner, Result

import maskline
from tests.conftest import TINY


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(maskline.app, [str(a) for a in arguments])


def overrides(*more: str) -> list[str]:
    return [word for override in (*TINY, *more) for word in ("--set", override)]
