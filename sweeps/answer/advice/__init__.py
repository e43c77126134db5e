"""What to run next, with its command and its cost."""
