"""The ``raypref`` command: train, check, generate, evaluate. Nothing in ``raypref`` or ``actors`` imports it.

Start with ``app.py``, the root of all commands. A command imports what it needs when it runs, so that ``--help`` stays quick.
``check.py`` is ``raypref check``. ``evaluate.py`` has the commands of ``raypref evaluate``, ``evaluation.py`` what one call of them reads
and writes, ``options.py`` the options that they share, ``arguments.py`` how an argument is read.
"""
