"""Models, the queue in front of them and the threads that run them. Knows no HTTP."""
