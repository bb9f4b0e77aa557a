"""INPO on the SFT model of Llama-3-8B and 8 GPUs, with the paper's settings."""
