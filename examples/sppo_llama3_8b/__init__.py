"""SPPO on Llama-3-8B-Instruct and 8 GPUs, with the paper's settings or those of its authors' code."""
