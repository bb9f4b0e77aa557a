"""The loop on a CPU machine, from nothing: its own text, tokenizer, base policy and oracle."""
