"""Metrics of an optimiser step: the loss, how far the policy has moved, and what single losses add."""

from __future__ import annotations

from raypref.metric_info import MetricInfo

_REWARD = (
    "The reward of a response is the loss's own measure of it. DPO, IPO, KTO, R-DPO, RPO, S-DPO, ranking DPO and SRPO: beta (IPO: tau) "
    "times log pi_theta(y|x) - log pi_frozen(y|x), as in TRL. SPPO, INPO, REBEL: the log-ratio itself. CPO and SimPO: beta times "
    "log pi_theta(y|x) (SimPO: per token). ORPO, SLiC-HF and SPO: log pi_theta(y|x) (ORPO: per token). "
    "With average_logps a log-ratio or log-prob is divided by |y|."
)
_SELECTED = (
    "The trained responses are the ones that the selection kept, not a uniform sample: with best_worst, chosen responses become more "
    "likely and rejected ones less likely, which partly cancels, so the estimate is too low and may be negative."
)
_UNPAIRED = (
    "Unpaired data of KTO has no other response: z0 = beta times loss/kl_baseline takes its place, below the reward of a desirable "
    "response and above that of an undesirable one."
)

TRAINING_METRICS = (
    MetricInfo(
        "loss",
        "Mean loss over the global batch, per example (per response token for a loss with reduction 'tokens'). Without the regulariser.",
        "depends on the loss",
        remedy="Compare it within one iteration only: targets and frozen log-probs change between iterations.",
    ),
    MetricInfo(
        "grad_norm",
        "L2 norm of the gradient over all parameters, before clipping.",
        "loss per unit of a parameter",
        remedy="A norm above learner.max_grad_norm at every step is normal for losses that are sums over tokens (SPPO, IPO). A norm that "
        "grows by orders of magnitude within an iteration calls for a lower learner.optimizer.lr.",
        drift=(None, 10.0),
    ),
    MetricInfo("learning_rate", "Learning rate of this step (learner.schedule).", "1"),
    MetricInfo("tokens", "Response tokens in this step's batch, over all sequences of its examples.", "tokens"),
    MetricInfo(
        "sequence_tokens",
        "Prompt and response tokens in this step's batch; a prompt that several responses of an example share counts once.",
        "tokens",
    ),
    MetricInfo(
        "policy_age",
        "Optimiser steps by which the trained policy is ahead of the one that sampled this step's batch, before the step. 0 is on-policy; "
        "absent for given data. In versions the age is 0: an iteration is trained only on the responses of its own pi_t.",
        "steps",
        remedy="It rises to the steps of an iteration less one. If kl_previous rises with it beyond its range, sync more often "
        "(loop.sync_interval, loop.prompts_per_iteration).",
    ),
    MetricInfo(
        "rewards/chosen",
        f"Mean reward of each example's chosen response, the one with the highest target. {_REWARD}",
        "nats (times beta where the loss has one)",
        remedy="Chosen rewards that fall while margins grow are common. If they keep falling, raise beta or lower the learning rate.",
    ),
    MetricInfo(
        "rewards/rejected",
        "Mean reward of each example's rejected response, the one with the lowest target. See rewards/chosen.",
        "nats (times beta where the loss has one)",
        remedy="It should lie below rewards/chosen.",
    ),
    MetricInfo(
        "rewards/margins",
        f"Mean of the chosen reward minus the rejected reward. {_UNPAIRED}",
        "nats (times beta where the loss has one)",
        healthy=(0.0, None),
        remedy="Below 0 for many steps: check that the preferences are not inverted, then lower learner.optimizer.lr.",
    ),
    MetricInfo(
        "rewards/accuracies",
        f"Share of examples whose chosen reward is above the rejected one; equal rewards count one half. {_UNPAIRED}",
        "share",
        healthy=(0.5, 1.0),
        remedy="It starts at 0.5 where the frozen policy is the one that sampled. At 0.5 for a whole iteration: nothing is learned; raise "
        "learner.optimizer.lr, or check oracle/ties. At 1.0 from the first steps: the preferences are trivial.",
    ),
    MetricInfo("logps/chosen", "Mean of log pi_theta(y|x) of the chosen response, summed over its tokens.", "nats per response"),
    MetricInfo("logps/rejected", "Mean of log pi_theta(y|x) of the rejected response, summed over its tokens.", "nats per response"),
    MetricInfo(
        "logps/chosen_per_token",
        "Mean of log pi_theta(y|x) / |y| of the chosen response.",
        "nats per token",
        remedy="If it falls to a multiple of its first values, the policy unlearns its own answers; lower learner.optimizer.lr, or "
        "strengthen the pull to the frozen policy (beta, tau).",
        drift=(None, 3.0),
    ),
    MetricInfo("logps/rejected_per_token", "Mean of log pi_theta(y|x) / |y| of the rejected response.", "nats per token"),
    MetricInfo(
        "kl",
        "Estimate of KL(pi_theta || pi_ref): mean over the batch of log pi_theta(y|x) - log pi_ref(y|x), y sampled from pi_t. Present "
        "where the reference actors hold pi_ref: the loss needs it, or reference.measure_kl is true. Exact in expectation for a uniform "
        "sample at the first step of an iteration and at temperature 1; later steps do not reweight from pi_t to pi_theta. "
        f"{_SELECTED} Absent for given data, which the policy did not sample.",
        "nats per response",
        remedy="Plot it against eval/win_rate_against_base. If it grows while the win rate does not, the policy exploits the oracle: stop "
        "earlier, or strengthen the pull to pi_ref (beta, tau, regulariser).",
    ),
    MetricInfo(
        "kl_previous",
        "Estimate of KL(pi_t || pi_theta): mean over the batch of log pi_t(y|x) - log pi_theta(y|x), y sampled from pi_t, log pi_t as the "
        "engine computed it. Unbiased for a uniform sample at temperature 1; about 0 at the first step of an iteration, up to the "
        f"difference between engine and learner. {_SELECTED} Absent for given data.",
        "nats per response",
        remedy="Far from 0 at the first step of an iteration: engine and learner disagree; see sync/logprob_difference_mean. Tens of nats "
        "at the end of an iteration: the steps are large; lower learner.optimizer.lr or use fewer steps per iteration.",
    ),
    MetricInfo(
        "regulariser/kl",
        "Mean over the regulariser's fresh samples of the token-wise KL(pi_theta || pi_ref), over the whole vocabulary.",
        "nats per response",
        remedy="Raise regulariser.coefficient to lower it.",
    ),
    MetricInfo(
        "loss/nll_chosen",
        "CPO, RPO: the imitation term, minus log pi_theta of the chosen response (per token where the loss averages it).",
        "nats",
    ),
    MetricInfo("loss/joint", "SRPO: the loss of the improver and the policy together, before weighting.", "1"),
    MetricInfo("loss/improve", "SRPO: the loss of the improver alone, before weighting.", "1"),
    MetricInfo(
        "rewards/revision_margins",
        "SRPO: beta times the log-ratio of chosen minus rejected, both given the rejected response as an earlier answer.",
        "nats times beta",
        healthy=(0.0, None),
        remedy="Below 0: the improver prefers the worse revision; see rewards/margins.",
    ),
    MetricInfo("loss/weight", "SPO: the weight mu of the example's first place.", "1"),
    MetricInfo("loss/regulariser", "SPO: the in-dataset regulariser before its coefficient.", "nats"),
    MetricInfo(
        "loss/kl_baseline",
        "KTO: z0, the baseline of rewards: the mean log-ratio over mismatched pairs of prompt and response, at least 0.",
        "nats per response",
    ),
)
