"""What was inspected, by which model and with what verdict: written so that nothing answered is lost."""
