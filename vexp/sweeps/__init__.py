"""Sweeps: a declared set of runs, what of it exists, and the workers that make the rest."""
