"""Seeds that depend on the purpose of a draw, never on the order of events."""

from __future__ import annotations

import hashlib


def seed_for(run_seed: int, purpose: str, iteration: int | None, name: str) -> int:
    """A 32-bit seed, the same on every machine.

    Args:
        run_seed: of the config.
        purpose: what is drawn; draws for different purposes are independent.
        iteration: in which it is drawn; None for data that no iteration sampled.
        name: of the prompt.
    """
    number = -1 if iteration is None else iteration
    digest = hashlib.blake2b(f"{run_seed}/{purpose}/{number}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
