"""What this machine can do, what a config lacks on it, and what a run of it will need."""
