"""Tabular preference games: one prompt, n arms in place of responses, everything known. numpy, float64.

``steps`` and ``closed_forms`` compute exactly what the theorems of the four papers state. ``population`` and ``tabular`` train a tabular
policy with the library's own losses and selections, for comparison. Start with ``known``, games whose Nash policy is known. Only the
theory tests and ``benchmarks/theory`` import from here; training does not.
"""
