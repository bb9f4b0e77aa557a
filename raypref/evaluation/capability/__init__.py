"""Capability: the tasks of benchmarks such as the Open LLM Leaderboard, through lm-eval's own package and vLLM, in a process of their own.

Start with ``measure``. ``job`` is what the process runs, ``callback`` measures the policies of a run while it goes on; the figures and
their comparison are in ``raypref.output.capability``. ``raypref.cli.capability`` uses this folder. lm-eval is the extra ``lm-eval``.
"""
