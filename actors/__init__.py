"""The actors of a run on Ray: engines, references, oracles and the learner's ranks.

``run_actors`` puts them together and is where to start reading; ``raypref.compose`` imports it when a run starts, and nothing else in
``raypref`` imports this package. ``learner``, ``rollout``, ``reference`` and ``oracle`` are the four roles: in each, ``actor`` (``rank``
for the learner) runs in a process of its own, and ``group`` is what the driver calls. ``weights`` brings the learner's weights to the
other roles, ``cluster`` holds what only knows Ray, and ``policy_model`` loads the policy for all of them.
"""
