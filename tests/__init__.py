"""Tests of vexp; helpers are imported as `tests.<folder>.<module>`."""
