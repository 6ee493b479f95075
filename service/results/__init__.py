"""What is stored of inspections, and what is watched over them. Knows no HTTP."""
