"""Reading a run afterwards, or while it goes on: the report, ``raypref inspect``, the model card.

``run_directory`` reads a run's directory and is used by all three. Everything here works on what a run has left behind so far, whether it
has ended, was killed, or still samples. ``cli`` imports this room, and ``compose`` for the card.
Start with ``run_directory``, then ``page``.
"""
