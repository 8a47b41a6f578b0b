"""Results that were made elsewhere, and become evaluations of runs here."""
