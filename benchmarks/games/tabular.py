"""A tabular softmax policy, trained with the library's own losses.

Shapes: n arms, C contexts, B examples, S sequences of an example. The policy is theta (C, n), log pi = log_softmax(theta) per row: row 0
is given the prompt and, for losses with revisions, row 1 + y is given the prompt and the earlier answer y. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.games.policies import Policy
from benchmarks.games.population import Population
from raypref.losses.base import Loss, LossBatch

if TYPE_CHECKING:
    from torch import Tensor

Objective = Callable[["Tensor"], "Tensor"]
"""theta (C, n) -> () the loss to be minimised; its gradient may contain stopped parts, as in the papers."""

NULL = 1e-10
"""Curvatures below this fraction of the largest count as zero: softmax is invariant to a shift of a row."""


@dataclass(frozen=True, slots=True)
class Task:
    """A loss, its data, and the frozen policies that it reads."""

    loss: Loss
    population: Population
    reference: Policy | None = None
    """(n,), or (C, n) with revisions; above 0 everywhere."""
    previous: Policy | None = None
    """(n,), as ``reference``."""

    def objective(self, theta: Tensor) -> Tensor:
        """() the exact expectation of the loss over the population: the learner's mean over an infinite batch.

        Statistics of the global batch are expectations as well, without gradient.

        Raises:
            ValueError: the loss needs responses to another prompt, or the token-wise KL, which a game does not have.
        """
        import torch

        batch = self.batch(theta)
        weights = torch.as_tensor(self.population.weights)
        if self.loss.has_statistics:
            with torch.no_grad():
                figures = self.loss.statistics(batch)
                means = {name: (weights @ values) / weights.sum() for name, values in figures.items()}
            batch = replace(batch, statistics=means)
        sizes = batch.lengths.sum(dim=1).to(weights.dtype) if self.loss.reduction == "tokens" else torch.ones_like(weights)
        mean: Tensor = (weights @ self.loss(batch).loss) / (weights @ sizes)
        return mean

    def batch(self, theta: Tensor) -> LossBatch:
        """All examples of the population, each once."""
        import torch

        if self.loss.mismatched or self.loss.token_kl:
            raise ValueError(f"loss.type: {self.loss.type!r} needs a second prompt or a token-wise KL, which a game does not have")
        contexts, arms = self.population.contexts, self.population.arms

        def frozen(policy: Policy | None) -> Tensor | None:
            return None if policy is None else torch.as_tensor(np.log(np.atleast_2d(policy))[contexts, arms])

        return LossBatch(
            logps=torch.log_softmax(theta, dim=-1)[torch.as_tensor(contexts), torch.as_tensor(arms)],
            reference_logps=frozen(self.reference),
            previous_logps=frozen(self.previous),
            targets=torch.as_tensor(self.population.targets),
            lengths=torch.ones(arms.shape, dtype=torch.long),
            mask=torch.ones(arms.shape, dtype=torch.bool),
        )


def logits(policy: Policy) -> Tensor:
    """theta (C, n) of a policy, (n,) or (C, n)."""
    import torch

    return torch.as_tensor(np.log(np.atleast_2d(policy)))


def policy_of(theta: Tensor) -> Policy:
    """(C, n) probabilities."""
    import torch

    policy: Policy = torch.softmax(theta.detach(), dim=-1).numpy()
    return policy


def stationary_policy(objective: Objective, start: Policy, tolerance: float = 1e-13, steps: int = 500) -> Policy:
    """A zero of the objective's gradient, by Newton's method: its minimiser, or the fixed point of a loss with stopped gradients.

    A step is -|H|^-1 g, at most one nat long and halved until it no longer overshoots. |H| has the absolute values of H's eigenvalues, so
    that each step descends and saddle points repel. A stopped gradient is missing in H as in g; H is then exact at the fixed point if the
    cofactor of the stopped factor vanishes there (SPO's mu), and still gives a descent direction elsewhere.

    Args:
        objective: of theta (C, n).
        start: (n,) or (C, n), above 0 everywhere.
        tolerance: on the largest entry of the gradient.
        steps: at most this many.

    Returns:
        (n,) or (C, n), like ``start``.

    Raises:
        ArithmeticError: no zero was found (the loss may have no minimum).
    """
    theta = logits(start)
    for _ in range(steps):
        g, H = _derivatives(objective, theta)
        if float(g.abs().max()) <= tolerance:
            return policy_of(theta).reshape(np.shape(start))
        theta = theta + _step(objective, theta, g, H)
    raise ArithmeticError(f"stationary_policy: the gradient is still {float(g.abs().max())} after {steps} steps")


def _gradient(objective: Objective, theta: Tensor) -> Tensor:
    import torch

    point = theta.detach().requires_grad_()
    return torch.autograd.grad(objective(point), point)[0]


def _derivatives(objective: Objective, theta: Tensor) -> tuple[Tensor, Tensor]:
    """(C, n) gradient and (Cn, Cn) Hessian."""
    import torch

    point = theta.detach().requires_grad_()
    (g,) = torch.autograd.grad(objective(point), point, create_graph=True)
    if not g.requires_grad:  # a loss linear in the log-ratios
        return g, torch.zeros(g.numel(), g.numel(), dtype=g.dtype)
    (H,) = torch.autograd.grad(g.flatten(), point, torch.eye(g.numel(), dtype=g.dtype), is_grads_batched=True)
    H = H.flatten(start_dim=1)
    return g.detach(), (H + H.T) / 2.0


def _step(objective: Objective, theta: Tensor, g: Tensor, H: Tensor) -> Tensor:
    import torch

    curvatures, directions = torch.linalg.eigh(H)
    sizes = curvatures.abs()
    curved = sizes > NULL * sizes.max()
    step = -(directions[:, curved] / sizes[curved]) @ (directions[:, curved].T @ g.flatten())
    step = (step / max(1.0, float(step.norm()))).view_as(theta)
    slope = float((g * step).sum())
    while True:
        ahead = float((_gradient(objective, theta + step) * step).sum())
        if ahead <= 0.9 * abs(slope) or float(step.norm()) < 1e-12:
            return step
        step, slope = step / 2.0, slope / 2.0


def descend(objective: Objective, start: Policy, *, steps: int, lr: float, adam: bool = False) -> NDArray[np.float64]:
    """Plain gradient descent, or Adam, on the whole population.

    Args:
        objective: of theta (C, n).
        start: (n,) or (C, n), above 0 everywhere.
        steps: number of steps.
        lr: step size, in nats of a logit for a gradient of one (Adam: for any gradient).
        adam: use Adam with torch's default settings.

    Returns:
        (steps + 1, C, n) the policy before the first step and after each.
    """
    import torch

    theta = logits(start).clone().requires_grad_()
    optimizer: torch.optim.Optimizer = torch.optim.Adam([theta], lr=lr) if adam else torch.optim.SGD([theta], lr=lr)
    path = [policy_of(theta)]
    for _ in range(steps):
        optimizer.zero_grad()
        objective(theta).backward()
        optimizer.step()
        path.append(policy_of(theta))
    return np.stack(path)
