"""SPPO on Mistral-7B-Instruct-v0.2 and 8 GPUs, with the paper's settings or those of its authors' code."""
