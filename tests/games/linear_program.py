"""The Nash policy of a preference game, as a linear program."""

import numpy as np
import pytest

from benchmarks.games.policies import Policy
from raypref.preferences import Matrix


def nash_policy(preference: Matrix) -> Policy:
    """A policy that no arm beats with more than 1/2: a von Neumann winner. Needs scipy (the extra ``dev``).

    x / sum(x) with x the maximiser of sum_i x_i subject to P x <= 1, x >= 0, whose maximum is 2.

    Source: SPPO (2.1).

    Args:
        preference: (n, n).

    Returns:
        (n,); one of them, if there are several.
    """
    optimize = pytest.importorskip("scipy.optimize")
    ones = np.ones(len(preference))
    result = optimize.linprog(-ones, A_ub=preference, b_ub=ones, method="highs-ds", options={"primal_feasibility_tolerance": 1e-10})
    assert result.success, result.message
    policy: Policy = np.clip(result.x, 0.0, None) / result.x.sum()
    return policy
