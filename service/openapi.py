"""Writes the service's OpenAPI document: `python -m service.openapi FILE`."""

import json
import sys
from pathlib import Path

from service.app import create_app


def main() -> None:
    """Write the document to the file named on the command line."""
    text = json.dumps(create_app().openapi(), indent=2)
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
