"""What is done with the settings that a user writes: short forms, overrides, and what is said about a setting that is wrong.

``overrides`` reads a file and what is set over it; ``unknown_keys`` words the refusal of a key that does not exist, with the keys of
other tools in ``foreign_keys``; ``without_effect`` finds settings that cannot matter. ``raypref.config``, ``raypref.registry`` and
``raypref.checks`` use them; nothing else needs to. Start with ``overrides``.
"""
