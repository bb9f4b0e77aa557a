"""The learner: DeepSpeed ranks that train the policy.

Start with ``rank``, one rank as a plain class, then ``training`` (an optimiser step) and ``passes`` (its forward and backward passes).
``group`` is the driver's side of all ranks; ``phases`` lets the ranks and the engines take turns on shared GPUs. ``deepspeed_setup`` is
the only module that knows how DeepSpeed is started. Imported by ``actors.run_actors`` and ``raypref.compose``.
"""
