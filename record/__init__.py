"""What was inspected, by which model, with what verdict: nothing that was answered is lost."""
