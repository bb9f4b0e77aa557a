"""One module a question; ``python -m benchmarks NAME`` asks it. Each prints JSON lines, its result last."""
