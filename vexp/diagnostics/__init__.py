"""Measures on batches: grounding, attention maps, the gallery of examples."""
