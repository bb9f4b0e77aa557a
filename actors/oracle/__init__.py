"""The oracle's actors: ``raypref.judging`` behind Ray calls. Imported by ``actors.run_actors`` alone.

Start with ``actor``, one replica, and ``group``, the driver's side of all replicas. ``services`` is what an oracle may use of its actor: an
engine for its model (``next_token``), and answers of the run's policy.
"""
