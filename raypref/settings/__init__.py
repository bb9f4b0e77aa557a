"""Settings as a user writes them: short forms, overrides, keys that do not exist, settings without effect.

The sections themselves are in ``raypref.sections``, the whole config in ``raypref.config``, its rules in ``raypref.checks``. Here,
``overrides`` (start there; ``config`` uses it) turns short forms and overrides into plain values. ``unknown_keys`` words the refusal of an
unknown key for ``registry``; ``foreign_keys`` knows the keys of other tools. ``without_effect`` tells ``compose`` of settings that
cannot matter. ``reference`` describes every key, for ``raypref config`` and ``docs/config.md``.
"""
