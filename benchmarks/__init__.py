"""One module a question. ``python -m benchmarks NAME`` runs one, ``python -m benchmarks all`` every one; each prints JSON lines."""
