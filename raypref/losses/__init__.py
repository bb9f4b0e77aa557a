"""The losses, one file each; what they share is in ``terms/``.

Start with ``base.py``, the contract between a loss and the learner. ``register`` is the class decorator that gives a loss its name in the
config: ``from raypref import losses``, then ``@losses.register("name")``.
"""

from raypref.losses.base import losses as _registry

register = _registry.register
names = _registry.names
