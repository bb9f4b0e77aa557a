"""Metrics of sampled and judged groups: the responses, the oracle, the selection."""

from __future__ import annotations

from raypref.metric_info import Kind, MetricInfo

_MEAN: Kind = "mean over groups"
_TOTAL: Kind = "total since start"

GROUP_METRICS = (
    MetricInfo(
        "entropy",
        "Entropy of pi_t per token, estimated on all K responses of a group: minus the sum of their sampled tokens' log-probs, divided by "
        "the number of those tokens. Log-probs are at temperature 1: a lower rollout.temperature or rollout.top_p biases it down.",
        "nats per token",
        _MEAN,
        (0.05, None),
        "Below: the policy gives nearly the same response each time; lower learner.optimizer.lr, strengthen the pull to pi_ref, or raise "
        "rollout.temperature. A steady rise over iterations: look at the responses for nonsense.",
        critical=(0.01, None),
        drift=(0.3, 2.0),
    ),
    MetricInfo("rollout/tokens", "Response tokens of a group: all K responses.", "tokens per group", _MEAN),
    MetricInfo(
        "rollout/response_tokens",
        "Mean length of a response.",
        "tokens",
        _MEAN,
        remedy="If it rises with every iteration, compare oracle/length_bias and a length-controlled win rate (raypref evaluate "
        "length-controlled); a loss with a length term (r_dpo, simpo) holds it.",
        drift=(0.5, 2.0),
    ),
    MetricInfo(
        "rollout/truncated",
        "Share of responses that were cut off at rollout.max_tokens.",
        "share",
        _MEAN,
        (0.0, 0.3),
        "Above: the oracle judges fragments; raise rollout.max_tokens, or set judging.truncated to drop or penalise.",
        critical=(None, 0.9),
    ),
    MetricInfo(
        "rollout/unused_groups",
        "Groups of the iteration that were sampled and judged (or given examples that were scored), and of which no step used an example. "
        "With loop.sync_interval; their prompts come again in the next iteration.",
        "groups",
        remedy="They cost sampling and judging. They come from loop.window_groups prompts that are in flight when the last batch is full.",
    ),
    MetricInfo(
        "rollout/unused_examples",
        "Examples of the iteration that no step used: those of the unused groups, and the rest of the group that filled the last batch.",
        "examples",
    ),
    MetricInfo(
        "rollout/unjudged_partners",
        "Rollouts of the iteration that were sampled only as another prompt's mismatched responses, and not judged.",
        "groups",
    ),
    MetricInfo(
        "oracle/dropped",
        "Share of groups that give no training example.",
        "share",
        _MEAN,
        (0.0, 0.4),
        "Above: look at oracle/ties, oracle/abstained, oracle/overlong and rollout/truncated for the cause; a larger rollout.responses "
        "gives more pairs to choose from.",
        critical=(None, 0.9),
    ),
    MetricInfo(
        "oracle/overlong",
        "Examples of a group that were left out because a sequence is longer than the context.",
        "examples per group",
        _MEAN,
        (0.0, 0.0),
        "Above: shorten prompts or rollout.max_tokens, or raise policy.max_context_tokens.",
    ),
    MetricInfo("oracle/comparisons", "Comparisons of a group that have an answer.", "comparisons per group", _MEAN),
    MetricInfo(
        "oracle/abstained",
        "Share of a group's comparisons that the oracle left open.",
        "share",
        _MEAN,
        (0.0, 0.1),
        "Above: see oracle/unparsed and oracle/failed_requests; judging.abstentions says what becomes of them.",
        critical=(None, 0.5),
    ),
    MetricInfo(
        "oracle/ties",
        "Share of the answered comparisons that are exactly one half.",
        "share",
        _MEAN,
        (0.0, 0.5),
        "Above: the oracle cannot tell the responses apart; use a finer oracle, a smaller judging.tie_margin, or a higher "
        "rollout.temperature.",
        critical=(None, 0.9),
    ),
    MetricInfo(
        "oracle/saturated",
        "Share of the answered comparisons with a probability below 1e-12 or above 1 - 1e-12, which log-odds are cut at (27.6 nats).",
        "share",
        _MEAN,
        remedy="Above 0 it matters to what reads log-odds (loss rebel with rewards=score, judging.preference=sppo, best of n by mean "
        "score): differences of rewards beyond 27.6 nats are lost. A judge that says 0 or 1 is at 1. Remedy: "
        "rewards=win_rate, judging.preference=pairwise.",
    ),
    MetricInfo(
        "oracle/win_rate_spread",
        "Highest minus lowest win rate within a group.",
        "probability",
        _MEAN,
        (0.1, 1.0),
        "Below: the responses of a group are nearly equal in the oracle's eyes, so there is little to learn.",
    ),
    MetricInfo(
        "oracle/cycle",
        "Share of groups whose majority relation has a cycle (a beats b beats c beats a). Absent where comparisons are missing.",
        "share",
        _MEAN,
        remedy="High: no reward function explains the oracle; prefer a loss that uses the preferences themselves (SPPO, INPO, SPO).",
    ),
    MetricInfo(
        "oracle/entropy",
        "Mean binary entropy of the verdicts; log 2 = 0.69 for an oracle that cannot tell.",
        "nats per comparison",
        _MEAN,
        (None, 0.65),
        "Above: the verdicts are close to coin flips.",
    ),
    MetricInfo(
        "oracle/length_bias",
        "Spearman correlation of win rate and length within a group; above 0 where longer responses win.",
        "correlation",
        _MEAN,
        (-0.5, 0.5),
        "Outside: the policy will learn length; use a length-controlled oracle, or a loss with a length term (r_dpo, simpo).",
        critical=(-0.8, 0.8),
    ),
    MetricInfo(
        "oracle/position_bias",
        "P(i > j) with i shown first, plus P(j > i) with j shown first, minus 1: 0 without a lean, above 0 where the first place helps. Of "
        "pairs that were asked in both orders.",
        "probability",
        _MEAN,
        (-0.1, 0.1),
        "Outside: ask in both orders, so that the lean cancels, or use another judge.",
    ),
    MetricInfo(
        "oracle/truncated_inputs",
        "Share of the oracle's inputs from which text was cut.",
        "share",
        _MEAN,
        (0.0, 0.1),
        "Above: raise the oracle's input limit, or shorten rollout.max_tokens.",
    ),
    MetricInfo("oracle/reward", "Mean reward of a response (reward_model).", "the model's own", _MEAN),
    MetricInfo("oracle/points", "Mean points of a response (self_judge).", "points", _MEAN),
    MetricInfo(
        "oracle/unparsed",
        "Share of a judge's replies that could not be read.",
        "share",
        _MEAN,
        (0.0, 0.05),
        "Above: the judge does not follow the template; change it, or raise its token limit.",
        critical=(None, 0.5),
    ),
    MetricInfo(
        "oracle/failed_requests",
        "Share of a judge's requests without a reply, after the retries.",
        "share",
        _MEAN,
        (0.0, 0.05),
        "Above: look at the endpoint's limits and at oracle/retries_total.",
        critical=(None, 0.5),
    ),
    MetricInfo("oracle/requests_total", "Requests to the judge.", "requests", _TOTAL),
    MetricInfo("oracle/retries_total", "Repeated requests to the judge.", "requests", _TOTAL),
    MetricInfo("oracle/prompt_tokens_total", "Tokens that the judge read.", "tokens", _TOTAL),
    MetricInfo("oracle/completion_tokens_total", "Tokens that the judge wrote.", "tokens", _TOTAL),
    MetricInfo("oracle/cost_total", "Cost of the judge's tokens at the prices in the config.", "currency of the prices", _TOTAL),
    MetricInfo("oracle/cache_hits", "Share of comparisons that the cache answered (judging.cache).", "share", _MEAN),
    MetricInfo(
        "oracle/disagreement",
        "Weighted standard deviation of an ensemble's verdicts on one comparison.",
        "probability",
        _MEAN,
        (None, 0.3),
        "Above: the members contradict each other; look at each one's metrics under oracle/<member>/.",
    ),
    MetricInfo(
        "oracle/<member>/<metric>",
        "A metric of one member of an ensemble, with the meaning of oracle/<metric>; <member> is its type and its place, as in judge_1.",
        "as oracle/<metric>",
        _MEAN,
    ),
    MetricInfo("oracle/best_tied", "best_of_n: share of groups whose best response is tied with another.", "share", _MEAN),
    MetricInfo("oracle/rank_ties", "ranking: share of neighbouring places with equal standing.", "share", _MEAN),
    MetricInfo("oracle/rank_upsets", "ranking: share of pairs in which the lower place wins against the higher.", "share", _MEAN),
)
