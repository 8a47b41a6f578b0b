"""The batch that an update reads: how it is built, and how it is observed."""
