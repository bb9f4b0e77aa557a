"""Seeds that follow from what they are for, so that no draw depends on the order of events."""

from __future__ import annotations

import hashlib


def seed_for(run_seed: int, purpose: str, iteration: int, name: str) -> int:
    """A 32-bit seed from (run seed, purpose, iteration, name of the prompt), the same on every machine."""
    digest = hashlib.blake2b(f"{run_seed}/{purpose}/{iteration}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
