"""Tables: from the results of a sweep to mean, spread and count per cell, and to text."""
