"""`python -m cli`: the console command where it is not installed."""

from cli.app import main

if __name__ == "__main__":
    main()
