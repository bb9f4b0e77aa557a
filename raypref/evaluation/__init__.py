"""Results from responses that exist: win rates with intervals, length control, best of n, agreement with people; their files and tables.

``raypref.cli`` calls this package after a run; ``raypref.loop`` uses ``win_rate`` and ``revisions`` within one, ``raypref.compose`` uses
``reranking``. Nothing here starts an actor. Start reading with ``response_files`` (files to sets of responses), ``matching`` (sets to
common prompts) and ``outcomes`` (prompts to an oracle's verdicts). Each of the other modules turns verdicts into one result, which
``tables`` shows.
"""
