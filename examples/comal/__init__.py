"""COMAL on a 1.5B model and 8 GPUs: INPO whose reference is refreshed after every few iterations."""
