"""The ``raypref`` command. Nothing in ``raypref`` or ``actors`` imports it.

Start with ``app.py``, the root of all commands; a command has a file of its name, and imports what it needs when it runs, so that
``--help`` stays quick. ``machine.py``, ``cluster.py`` and ``findings.py`` belong to ``doctor.py``, ``job_client.py`` to ``submit.py`` and
``jobs.py``. ``evaluate.py`` has the commands of ``raypref evaluate``, ``evaluation.py`` what one call of them reads and writes,
``options.py`` the options that commands share, ``arguments.py`` how an argument is read, ``ending.py`` how the process ends.
"""
