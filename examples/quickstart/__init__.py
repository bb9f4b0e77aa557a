"""The loop on a CPU machine, from nothing: text, tokenizer, base policy and oracle."""
