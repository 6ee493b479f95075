"""The console command: thin, and lazy about what it imports."""
