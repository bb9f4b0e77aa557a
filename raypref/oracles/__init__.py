"""The oracles, one file each; what they share is in ``support/``.

Start with ``base.py``, the contract between an oracle and the run. ``register`` is the class decorator that gives an oracle its name in
the config: ``from raypref import oracles``, then ``@oracles.register("name")``.
"""

from raypref.oracles.base import oracles as _registry

register = _registry.register
names = _registry.names
