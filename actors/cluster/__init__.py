"""Ray: which cluster a run uses, how its bundles are reserved, how its actors start, and how their answers are awaited.

Start with ``launch``; ``raypref.plan.placement`` computes the bundles and talks to nobody. ``connection`` joins or starts the cluster,
``nodes`` and ``preflight`` check its nodes and the network between them before models are loaded, and ``calls`` finds the first cause when
several calls fail. Nothing here knows what an actor does. Imported by the actors, and by ``raypref.compose`` for the plan and the
connection.
"""
