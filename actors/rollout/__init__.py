"""Rollout: vLLM engines that sample responses from the policy of the last weight sync.

``group`` is the driver's side (``raypref.roles.RolloutRole``): it routes requests to engines. ``actor`` runs in the engine's process: it
accepts or refuses requests and streams finished rollouts. ``engine`` is the only module that calls vLLM. Start with ``group``.
``actors.run_actors`` starts the actors; nothing else imports this room.
"""
