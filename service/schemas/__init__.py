"""The shapes of the wire."""
