"""From a rollout to training examples: the oracle is asked, the selection picks, the loss computes targets. Knows nothing of Ray.

Imported by the oracle's actors, the config and its checks, the loop and ``games``. Start with ``judge``. ``comparisons`` is
what is known of one group, ``oracle_queue`` puts the questions of many groups to one oracle, ``diagnostics`` describes judged groups in
metrics, ``config`` is the ``judging`` section, and ``trial`` tries a selection with a loss before a run starts.
"""
