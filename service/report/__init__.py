"""The shift report: what a period's results say, as one page that prints. Knows no HTTP."""
