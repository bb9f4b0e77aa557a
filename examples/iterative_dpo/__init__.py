"""Iterative DPO on the SFT model of Llama-3-8B and 8 GPUs: the baseline of the INPO paper."""
