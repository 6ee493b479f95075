"""The console command `maskline`; see `cli.app`."""

from cli.app import BAD_INPUT, FAULT, READER_GONE, app, main

__all__ = ["BAD_INPUT", "FAULT", "READER_GONE", "app", "main"]

if __name__ == "__main__":
    main()
