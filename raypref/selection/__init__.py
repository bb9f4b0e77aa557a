"""The selection rules, one file each; what they share is in ``rules/``.

Start with ``base.py``, the contract between a preference matrix and training examples. ``register`` is the class decorator that gives a
rule its name in the config: ``from raypref import selection``, then ``@selection.register("name")``.
"""

from raypref.selection.base import selections as _registry

register = _registry.register
names = _registry.names
