"""SRPO on the TL;DR preferences, with the paper's settings."""
