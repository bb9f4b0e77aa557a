"""SPPO with an instruct model of 0.5B or 1.5B on one GPU of 24 GB."""
