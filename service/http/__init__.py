"""HTTP around the inspector: who may ask, what is read, how errors and answers are written."""
