"""Tensors: how examples become micro-batches, forward passes and log-probs.

Start with ``micro_batches`` (a global batch on ranks), then ``packing`` (sequences as rows), ``logprobs`` (the forward pass) and
``collation`` (log-probs as a ``LossBatch``). ``head``, ``token_kl`` and ``fused`` compute on chunks of logits; ``schedule`` is plain
arithmetic. Learner and reference actors import from here. Most modules load torch: import them lazily elsewhere.
"""
