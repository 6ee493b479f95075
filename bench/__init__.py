"""Benchmarks: commands that print a table. Not imported by anything."""
