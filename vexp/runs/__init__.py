"""Run folders: found by hash, owned by one process at a time, published once."""
