"""Capability: the tasks of benchmarks such as the Open LLM Leaderboard, through lm-eval's own package and vLLM, in a process of their own.

Start with ``measure``. ``job`` is what the process runs, ``results`` its file and the comparison of two of them, ``callback`` measures the
policies of a run while it goes on. ``raypref.cli.capability`` and ``raypref.report`` use this folder. lm-eval is the extra ``lm-eval``.
"""
