"""What a run leaves behind: its directory, rollouts, checkpoints, summary.

Start with ``directory``, which lists the files. ``columns`` defines every column of rollouts and evaluations. The oracle's actors use
``journal``; the loop, ``raypref.evaluation``, ``raypref.compose`` and ``raypref.cli`` use the rest. Nothing here imports the loop or the
judging.
"""
