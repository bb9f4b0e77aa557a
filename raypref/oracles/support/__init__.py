"""What several oracles use, or what one of them needs beside its own file; imported by ``oracles`` and ``judging``.

Start with ``checked``, which every answer passes. ``cache`` keeps verdicts on disk. ``orders`` and ``verdicts`` show pairs to a model and
read its replies; ``endpoint`` is a chat server; ``token_batches``, ``next_token``, ``pairrm_model`` and ``reward_scorer`` run models.
"""
