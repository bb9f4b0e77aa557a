"""``python -m raypref`` is the ``raypref`` command."""

from raypref.cli.app import main

main()
