"""One run as it is declared: its sections, their problems, its identity."""
