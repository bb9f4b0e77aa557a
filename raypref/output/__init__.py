"""What a run writes: its directory, metrics, rollouts, checkpoints, progress and report.

Start with ``directory``, which lists the files. ``metric_table`` defines every metric; ``columns`` every column of rollouts and
evaluations; the pages in ``docs/`` are generated from both. The oracle's actors use ``journal``; the loop, ``raypref.evaluation``,
``raypref.compose`` and ``raypref.cli`` use the rest. Nothing here imports the loop or the judging.
"""
