"""Tabular preference games: one prompt, n arms in place of responses, everything known. numpy, float64.

What the theorems of the four papers say is computed here exactly, and compared with what the library's own losses and selections make
of a tabular policy (``population`` and ``tabular``).
"""
