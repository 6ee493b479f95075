"""What a GPU does with Maskline, section by section; see `bench.gpu.__main__`."""
