"""Ray: which cluster a run uses, how many bundles it reserves, how its actors start, and how their answers are awaited.

Start with ``placement``, which computes the bundles and talks to nobody; then ``launch``. ``connection`` joins or starts the cluster, and
``calls`` finds the first cause when several calls fail. Nothing here knows what an actor does. Imported by ``actors``, and by
``raypref.compose`` for the plan and the connection.
"""
