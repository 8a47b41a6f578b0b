"""Evidence boxes for a dataset: phrases, boxes, verdicts, pools (EASE, section 3.2, appendix B)."""
