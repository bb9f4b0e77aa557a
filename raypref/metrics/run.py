"""Metrics of the run itself: evaluation, weight sync, time, throughput."""

from __future__ import annotations

from raypref.metric_info import MetricInfo

RUN_METRICS = (
    MetricInfo(
        "eval/win_rate_against_<opponent>",
        "Win rate of the newest policy on the held-out prompts under the run's own oracle, against 'base' (the run's first policy) or "
        "'previous' (the policy evaluated before). Its interval is in the evaluations of summary.json.",
        "probability",
        healthy=(0.5, 1.0),
        remedy="Below 0.5 against base with an interval that excludes it: training made the policy worse. Falling against previous: stop "
        "at the best iteration (raypref evaluate best).",
        critical=(0.35, None),
    ),
    MetricInfo("eval/response_tokens", "Mean length of the newest policy's held-out responses.", "tokens"),
    MetricInfo(
        "eval/oracle/<metric>",
        "What the oracle observed during the evaluation, with the meaning of oracle/<metric>. Totals are those of this evaluation.",
        "as oracle/<metric>",
    ),
    MetricInfo(
        "eval/loss",
        "Mean loss on the held-out examples of given data after this step: what loss is on a training batch, computed on all held-out "
        "examples as one batch, without dropout. The frozen policies are those of the iteration in which it is measured.",
        "as loss",
        remedy="It rises while loss falls: the policy learns its training examples by heart; stop earlier (the lowest value is in held_out "
        "of summary.json), lower learner.optimizer.lr, or use fewer epochs.",
    ),
    MetricInfo(
        "eval/rewards/accuracies",
        "Share of held-out examples whose chosen reward is above the rejected one, as rewards/accuracies.",
        "share",
        healthy=(0.5, 1.0),
        remedy="It stays at 0.5 while rewards/accuracies rises: what is learned does not carry over to other prompts.",
    ),
    MetricInfo(
        "eval/rewards/margins",
        "Mean over the held-out examples of the chosen reward minus the rejected one, as rewards/margins.",
        "nats (times beta where the loss has one)",
        healthy=(0.0, None),
        remedy="Below rewards/margins by much: see eval/loss.",
    ),
    MetricInfo(
        "eval/<group>/<metric>",
        "The mean over the held-out examples of any other metric of the loss, with the meaning of <group>/<metric>: eval/rewards/chosen, "
        "eval/logps/rejected, eval/loss/kl_baseline.",
        "as <group>/<metric>",
    ),
    MetricInfo(
        "eval/text_nll",
        "Negative log-likelihood of the answers in evaluation.texts under the policy after this step, per token: -log pi_theta(y|x) summed "
        "over all answers, divided by their tokens, end tokens included. exp of it is the perplexity.",
        "nats per token",
        remedy="It rises while win rates rise: the policy wins comparisons and forgets what such texts are like; raise the loss's "
        "regularisation, or stop earlier.",
    ),
    MetricInfo(
        "sync/logprob_difference_max",
        "Largest absolute difference between an engine's and the learner's log-prob of one token, on the same tokens after a weight sync.",
        "nats",
        remedy="In float32, above 1e-4 the run stops (sync.tolerance). In bfloat16 single tokens differ by up to 0.7.",
    ),
    MetricInfo(
        "sync/logprob_difference_mean",
        "Mean absolute difference between an engine's and the learner's log-prob of one token, after a weight sync.",
        "nats",
        healthy=(0.0, 0.05),
        remedy="Above: the engine does not compute what the learner computes; in bfloat16 the run stops there (sync.tolerance).",
    ),
    MetricInfo(
        "sync/policy_version",
        "The version of the policy that the engines hold since this sync: the number of finished iterations; above the run's number of "
        "iterations for weights between two iterations, which the regulariser's samples are drawn from.",
        "1",
    ),
    MetricInfo(
        "failures/restarts/<role>",
        "Actors of the role (rollout, oracle, reference) that died or hung and were replaced, since the run was started or resumed.",
        "actors",
        kind="total since start",
        remedy="replacements in summary.json and the log of the actor say why; supervision.restarts is how many a run puts up with.",
    ),
    MetricInfo(
        "failures/set_aside",
        "Prompts whose group was dropped because it killed two replicas of a role, since the run was started: a resumed run knows them.",
        "prompts",
        kind="total since start",
        remedy="set_aside.jsonl and summary.json name them; without that file a resumed run asks them again.",
    ),
    MetricInfo("time/run_s", "Wall time since the driver started; in each line of metrics.jsonl.", "s"),
    MetricInfo("time/iteration_s", "Wall time of the iteration, its weight sync included.", "s"),
    MetricInfo(
        "time/<stage>_s",
        "Wall time of the iteration in which at least one call of the stage was under way: rollout, judge, reference, train, sync, "
        "evaluate (win rates, the loss on held-out examples, the likelihood of texts), checkpoint (training waits for it), "
        "checkpoint_write (it does not), regulariser, load. Stages overlap, so that they may add up to more than the iteration.",
        "s",
        remedy="The stage whose time is nearest to time/iteration_s is the bottleneck: give its role more GPUs.",
    ),
    MetricInfo(
        "tokens_per_second_per_gpu/sampled",
        "Response tokens of the iteration's training groups, divided by time/rollout_s and by the engines' GPUs. The time runs from the "
        "first request sent to the last group finished, without the pauses in which no request is under way.",
        "tokens/s per GPU",
    ),
    MetricInfo(
        "tokens_per_second_per_gpu/trained",
        "Response tokens in the iteration's batches, divided by time/train_s and by the learner's ranks. Every epoch counts.",
        "tokens/s per GPU",
    ),
    MetricInfo(
        "mfu",
        "Model FLOPs utilisation of the learner: operations of the iteration's training on sequence_tokens (6 per parameter that a token "
        "passes through and token; 4 with LoRA, whose frozen weights need no gradient), divided by time/train_s, the ranks and the peak of "
        "a GPU (metrics.peak_tflops, or that of its type). Attention's own products and repeated forward passes (gradient checkpointing) "
        "are not counted. Absent without a known peak, as on a CPU.",
        "share",
        remedy="Below 0.3 for a model of some billions of parameters: raise learner.micro_batch_tokens, use a lower learner.zero_stage, "
        "or gradient_checkpointing only where memory asks for it.",
    ),
    MetricInfo(
        "waiting/<role>",
        "Share of the iteration in which no call of the role (rollout, oracle, reference, learner) was under way.",
        "share",
        remedy="The role that hardly waits is the bottleneck: give it more GPUs, and fewer to those that wait. All wait much: nothing "
        "overlaps (loop.overlap), or loop.window_groups is small.",
    ),
    MetricInfo(
        "overlap_efficiency",
        "Share of the iteration in which its busiest role worked: 1 where the iteration takes no longer than that role's work alone.",
        "share",
        remedy="Low: the roles wait for each other; see waiting/<role>, loop.overlap and loop.window_groups.",
    ),
    MetricInfo(
        "in_flight/<stage>",
        "Groups that are being sampled (rollout), judged (judge) or scored (reference), or wait for their turn there, at the step.",
        "groups",
        remedy="A stage that holds most of the groups in flight is the bottleneck before the learner.",
    ),
    MetricInfo(
        "memory_peak/<memory>/<role>",
        "Most memory that a process of the role (learner, rollout, reference, oracle) has held since it started, the largest of the role: "
        "gpu (PyTorch's tensors on one GPU) or host (the process's resident set, its libraries among it). Asked every few seconds, and "
        "written when it has grown by a percent.",
        "GiB",
        remedy="The report shows it beside the plan's figure. Far above it: say so in an issue, with plan.json.",
    ),
    MetricInfo("engine/running", "Sequences that an engine decodes at a time: vLLM's own figure, mean over its steps.", "sequences"),
    MetricInfo(
        "engine/waiting",
        "Sequences that wait for room in an engine, mean over its steps.",
        "sequences",
        remedy="Far above engine/running: raise rollout.max_num_seqs, the key-value cache, or the number of engines.",
    ),
    MetricInfo(
        "engine/kv_cache_usage",
        "Share of an engine's key-value cache in use, mean over its steps.",
        "share",
        remedy="Low while engine/waiting is above 0: rollout.max_num_seqs is the limit; raise it.",
    ),
    MetricInfo("engine/kv_cache_usage_peak", "Largest share of a key-value cache in use, of any engine at any of its steps.", "share"),
    MetricInfo(
        "engine/prefix_cache_hits",
        "Share of prompt tokens whose keys and values an engine still held: the K responses of a prompt share them.",
        "share",
        remedy="With K responses per prompt (K - 1)/K is usual for prompts of many tokens; the cache is emptied at each weight sync.",
    ),
    MetricInfo(
        "engine/preempted",
        "Sequences that lost their place in a key-value cache and were computed again, since the step before, over all engines.",
        "sequences",
        remedy="Many at every step: raise rollout.gpu_memory_utilization or rollout.kv_cache_gib, or lower rollout.max_num_seqs.",
    ),
)
