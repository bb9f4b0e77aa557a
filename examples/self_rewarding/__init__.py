"""Iterative DPO on Llama-3-8B-Instruct and 8 GPUs, with the policy, or a model behind an endpoint, as the judge."""
