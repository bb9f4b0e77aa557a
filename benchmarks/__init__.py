"""Benchmarks: one module per question, run by ``python -m benchmarks NAME``. Each prints JSON lines, its result last.

Nothing in ``raypref`` or ``actors`` imports this package. ``figure.Figure`` is what a benchmark reports, ``report`` writes the table of
``README.md``, ``models`` and ``preference_pairs`` make the inputs, and ``simulated`` has roles that take no time of the machine. Start
reading with ``README.md``.
"""
