"""``python -m raypref`` is the ``raypref`` command."""

from raypref.cli import main

main()
