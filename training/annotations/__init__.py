"""Labels in and out: the formats of annotation tools to one neutral set in memory, and back."""
