"""MT-Bench (arXiv 2306.05685): answers of two turns, graded by a judge, in FastChat's files.

Start with ``questions``. ``files`` reads and writes, ``grading`` asks the judge, ``judgments`` has one judgment, ``scores`` and ``tables``
the figures. ``raypref.cli.mt_bench`` uses this folder; ``raypref.loop.conversation`` has the policy answer.
"""
