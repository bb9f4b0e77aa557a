"""The losses, one algorithm per file; what several of them share is in ``terms``.

Start with ``base``, the contract between a loss and the learner, then read ``dpo`` or ``sppo``. The config chooses a loss by its
``type``: a new loss is one new file here, or a third party's class, named ``module:Class``. ``register`` is the class decorator that
gives a loss its name: ``from raypref import losses``, then ``@losses.register("name")``. Every room may import ``base``; nothing imports
a single loss, since the registry finds them.
"""

from raypref.losses.base import losses as _registry

register = _registry.register
names = _registry.names
