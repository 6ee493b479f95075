"""What regions are called: learned from what people say, while the service runs."""
