"""Claims that must hold."""

from collections.abc import Iterable

from benchmarks.theory.claim import Claim


def all_hold(claims: Iterable[Claim]) -> list[Claim]:
    """The claims, after asserting that none of them fails."""
    measured = list(claims)
    assert measured
    for claim in measured:
        assert claim.holds is not False, claim.line()
    return measured


def some_fail(claims: Iterable[Claim]) -> bool:
    """Whether a claim fails: what a wrong loss must make happen."""
    return any(claim.holds is False for claim in claims)
