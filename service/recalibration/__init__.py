"""New calibrations of a serving model, and what they would change. Knows no HTTP."""
