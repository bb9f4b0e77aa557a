"""What a run says while it goes on: metrics, the progress line, and where they are written.

Start with ``table``, the table of all metrics; ``docs`` generates the pages ``docs/metrics.md`` and ``docs/columns.md``. ``writer`` takes
the figures, ``progress`` shows them. The loop, ``raypref.evaluation``, ``raypref.compose`` and ``raypref.cli`` use this room.
"""
