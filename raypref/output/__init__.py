"""What a run writes: its directory, metrics, rollouts, checkpoints, progress and report.

Start with ``directory``, which lists the files. ``metric_table`` defines every metric; ``columns`` every column of rollouts and
evaluations; the pages in ``docs/`` are generated from both. ``journal`` is used by the oracle actors, the rest by the driver, the
composition root and the CLI.
"""
