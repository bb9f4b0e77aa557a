"""What several selection rules share: ``standing`` (win rate, mean score, Copeland: one figure per response, and the order by it) and
``labels`` (which response of a pair is the chosen one).

Only selection rules import from here, third parties' included. Plain numpy. Start with ``standing``.
"""
