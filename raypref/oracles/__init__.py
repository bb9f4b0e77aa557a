"""The oracles, which say which of two responses is better: one per file; what they share is in ``support``.

Anyone may import from here, third parties too. Start with ``base``, the contract between an oracle and the run. ``register`` is the class
decorator that gives an oracle its name in the config: ``from raypref import oracles``, then ``@oracles.register("name")``.
"""

from raypref.oracles.base import oracles as _registry

register = _registry.register
names = _registry.names
