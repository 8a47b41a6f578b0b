"""Measurements of vexp against its peers; each runs as `python -m benchmarks.<name>`."""
