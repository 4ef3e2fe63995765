"""The long-running processes: what is wired together in each, and how it starts and ends."""
