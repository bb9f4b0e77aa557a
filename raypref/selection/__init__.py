"""The selection rules, one per file; what several of them share is in ``rules``.

Start with ``base``: the contract of a rule, and ``play``, which runs one. The config chooses a rule by its ``type``: a new rule is one
new file here, or a third party's class, named ``module:Class``. ``register`` is the class decorator that gives a rule its name:
``from raypref import selection``, then ``@selection.register("name")``. Every room may import ``base``; nothing imports a single rule,
since the registry finds them.
"""

from raypref.selection.base import selections as _registry

register = _registry.register
names = _registry.names
