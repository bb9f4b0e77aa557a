"""Keys of other tools, and what they are called here: TRL, OpenRLHF, verl, LlamaFactory, and the code of the papers' authors.

A sentence names this tool's keys by their dotted paths; a test holds these against the config.
"""

from __future__ import annotations

_GLOBAL_BATCH = "learner.global_batch is the number of examples per optimiser step over all ranks; a pair is one example"
_MEMORY = "learner.micro_batch_tokens limits the memory of a forward pass, in tokens per rank; " + _GLOBAL_BATCH
_LENGTH = "loop.iterations says how long the run is, and learner.epochs how often an iteration's examples are trained on"
_STEPS = "loop.steps is the length of a run in optimiser steps (with loop.sync_interval); otherwise the steps follow from loop.iterations"
_KL = (
    "no reward is reduced by a KL here: the pull to a frozen policy is the loss's own (loss.beta of dpo, loss.tau of inpo), and "
    "regulariser.coefficient weighs SPO's token-wise KL"
)
_EVALUATION = (
    "evaluation.every counts iterations, and evaluation.every_steps optimiser steps (with loop.sync_interval); on held-out records of "
    "given data, evaluation.loss_every_steps counts the optimiser steps between two measurements of the loss"
)
_CHECKPOINTS = "a checkpoint is saved after every iteration, or every checkpoint.every_steps optimiser steps"
_GPUS = "placement.learner.ranks and placement.rollout.engines are the numbers of GPUs of the learner and of engines"
_PPO = "it belongs to PPO and GRPO, which are not among the losses"
_PACKED = "responses are always packed, and a prompt is computed once for all of its responses"
_METRICS = "every step is written to metrics.jsonl and tensorboard/ in output_dir; metrics.wandb and metrics.mlflow name a tracker"
_NLL = (
    "it has no exact counterpart: the losses rpo (loss.eta), cpo (loss.alpha) and slic_hf (loss.weight) add the chosen response's negative "
    "log-likelihood, each as its paper defines it"
)

_GENERAL: tuple[tuple[str, str], ...] = (
    # batches and length
    ("batch_size global_batch_size mini_batch_size ppo_mini_batch_size", _GLOBAL_BATCH),
    ("train_batch_size", _GLOBAL_BATCH + "; loop.prompts_per_iteration (verl's data.train_batch_size) counts prompts"),
    ("rollout_batch_size", "loop.prompts_per_iteration is the number of prompts between two weight syncs"),
    ("per_device_train_batch_size micro_train_batch_size micro_batch_size micro_batch train_micro_batch_size_per_gpu", _MEMORY),
    ("micro_batch_size_per_gpu ppo_micro_batch_size ppo_micro_batch_size_per_gpu per_device_batch_size forward_batch_size", _MEMORY),
    ("gradient_accumulation_steps accumulate_grad_batches", "the number of micro-batches follows; " + _MEMORY),
    ("micro_rollout_batch_size", "rollout.max_num_seqs is the number of sequences that an engine decodes at once"),
    ("per_device_eval_batch_size eval_batch_size", "evaluations are sampled by the engines, up to rollout.max_num_seqs sequences at once"),
    ("num_train_epochs max_epochs total_epochs num_epochs num_ppo_epochs ppo_epochs noptepochs", _LENGTH),
    ("num_episodes num_iters total_episodes num_iterations n_iterations", _LENGTH),
    ("max_steps max_train_steps total_training_steps total_steps num_steps train_steps", _STEPS),
    ("steps_per_generation ref_sync_interval weight_sync_interval", "loop.sync_interval is the number of steps between two weight syncs"),
    # optimiser and schedule
    ("learning_rate actor_learning_rate peak_lr", "learner.optimizer.lr is the peak learning rate"),
    ("lr_scheduler_type lr_scheduler scheduler lr_decay_style", "learner.schedule.type is linear, cosine or constant"),
    ("num_warmup_steps lr_warmup_steps", "learner.schedule.warmup_steps is the warm-up in optimiser steps"),
    ("min_lr min_lr_ratio lr_end cosine_min_lr_ratio", "learner.schedule.final_ratio is the last learning rate as a share of the peak"),
    ("lr_warmup_ratio lr_warmup_steps_ratio warmup", "learner.schedule.warmup_ratio is the warm-up as a share of the schedule"),
    ("adam_beta1", "learner.optimizer.beta1 is AdamW's first moment decay"),
    ("adam_beta2", "learner.optimizer.beta2 is AdamW's second moment decay"),
    ("adam_betas betas", "learner.optimizer.beta1 and learner.optimizer.beta2 are AdamW's moment decays"),
    ("adam_epsilon adam_eps epsilon", "learner.optimizer.eps is the optimiser's epsilon"),
    ("optim optimizer_type", "learner.optimizer.type is adamw or rmsprop"),
    ("clip_grad grad_clip clip_grad_norm max_norm gradient_clipping", "learner.max_grad_norm is the largest gradient norm"),
    ("deepspeed deepspeed_config ds_config zero", "learner.zero_stage is DeepSpeed's ZeRO stage; no other file configures it"),
    # model and lengths
    ("model_name_or_path model model_name model_path pretrain base_model", "policy.path is the model's directory or hub name"),
    ("tokenizer_name_or_path tokenizer_name tokenizer_path", "policy.tokenizer is the tokenizer's directory or hub name"),
    ("torch_dtype bf16 fp16 precision model_dtype", "policy.dtype is bfloat16 or float32"),
    ("attn_implementation flash_attn use_flash_attention_2", "policy.attention is sdpa, eager or flash_attention_2"),
    ("use_peft finetuning_type use_lora", "policy.lora=true trains adapters; without it every parameter is trained"),
    ("lora_r lora_rank", "policy.lora.rank is the rank of the adapters"),
    ("lora_alpha", "policy.lora.alpha is the adapters' scale"),
    ("lora_dropout", "policy.lora.dropout is the adapters' dropout"),
    ("lora_target lora_target_modules", "policy.lora.target_modules names the adapted modules"),
    (
        "max_length cutoff_len maxlen max_seq_length max_seq_len max_model_len model_max_length max_len",
        "policy.max_context_tokens limits prompt and response together, and rollout.max_tokens a sampled response",
    ),
    (
        "max_prompt_length prompt_max_len max_prompt_len max_source_length",
        "a prompt may be as long as policy.max_context_tokens - rollout.max_tokens; data.overlong says what happens to a longer one",
    ),
    (
        "max_new_tokens max_completion_length max_response_length response_length generate_max_len max_gen_len",
        "rollout.max_tokens is the longest response, in tokens",
    ),
    # sampling, engines and GPUs
    (
        "num_generations n_samples_per_prompt num_return_sequences num_responses n_samples K k n",
        "rollout.responses is K, responses per prompt",
    ),
    ("gen_temp sampling_temperature", "rollout.temperature is the sampling temperature"),
    ("use_vllm", "responses are always sampled by vLLM engines; placement.rollout.engines is their number"),
    ("vllm_num_engines num_vllm_engines", "placement.rollout.engines is the number of engines"),
    (
        "vllm_tensor_parallel_size tensor_model_parallel_size tensor_parallel_size tp_size",
        "placement.rollout.tensor_parallel is the number of GPUs per engine",
    ),
    ("vllm_gpu_memory_utilization vllm_gpu_util", "rollout.gpu_memory_utilization is the share of a GPU that an engine takes"),
    ("vllm_mode colocate_all_models colocate", "placement.layout is separate or colocated"),
    ("vllm_enable_sleep vllm_enable_sleep_mode", "placement.sleep has engines and learner take turns"),
    ("vllm_sync_backend", "sync.transport says how weights reach the engines"),
    ("n_gpus_per_node nnodes num_gpus num_processes num_machines actor_num_gpus_per_node", _GPUS),
    # data
    ("dataset dataset_name train_file train_files prompt_data input_data dataset_path", "data.path is a file, a directory or a data set"),
    ("dataset_train_split train_split", "data.split is the split of a data set"),
    ("input_key prompt_key prompt_column", "data.prompt_field is the field with the prompt"),
    ("apply_chat_template", "data.chat_template says whether the tokenizer's chat template is applied"),
    ("val_size test_size eval_size", "data.held_out_prompts is the number of prompts, or of records of given data, that are held out"),
    ("eval_dataset val_files val_file eval_file", "data.held_out names the held-out prompts, or records of given data"),
    # frozen policies, rewards and losses
    (
        "ref_model ref_model_name_or_path reference_model sft_model_path",
        "pi_ref is the policy that the run starts from (policy.path), fixed or refreshed: reference.policy",
    ),
    ("sync_ref_model ref_model_sync_steps", "reference.policy=refreshed replaces pi_ref every reference.every iterations"),
    (
        "reward_model_path reward_pretrain reward_model reward_model_name judge",
        "oracle.type=reward_model with oracle.path gives the preferences",
    ),
    ("loss_type pref_loss objective algorithm algo", "loss.type names the loss"),
    ("beta", "a loss has its own strength: loss.beta of dpo, loss.eta of sppo, inpo and rebel, loss.tau of ipo"),
    ("pref_beta", "loss.beta of dpo is the same; sppo, inpo and rebel have loss.eta, and ipo loss.tau"),
    ("kl_coef init_kl_coef kl_loss_coef kl_penalty kl_beta use_kl_loss kl_ctl kl_weight", _KL),
    ("rpo_alpha pref_ftx sft_weight nll_weight sft_coef", _NLL),
    ("clip_ratio cliprange eps_clip vf_coef entropy_coeff gae_lambda critic_learning_rate adv_estimator advantage_estimator", _PPO),
    ("missing_eos_penalty non_eos_penalty", "judging.truncated=penalise with judging.truncation_penalty is for responses without an end"),
    ("packing packing_samples padding_free use_dynamic_bsz", _PACKED),
    ("use_liger_kernel use_liger_loss", "Liger's kernels are used on GPUs where they are installed"),
    # evaluation and output
    ("eval_steps eval_strategy evaluation_strategy test_freq eval_freq eval_interval", _EVALUATION),
    ("save_steps save_freq save_strategy save_interval save_every", _CHECKPOINTS),
    ("save_total_limit max_ckpt_num max_actor_ckpt_to_keep", "checkpoint.keep is the number of checkpoints that stay on disk"),
    (
        "resume_from_checkpoint resume load_checkpoint resume_mode",
        "the command `raypref train --resume` continues from the newest checkpoint",
    ),
    ("logging_steps report_to use_wandb wandb_project logging_dir log_freq logger", _METRICS),
    # sections
    ("trainer training train training_args training_arguments", "training is the section learner, and its length the section loop"),
    ("actor actor_rollout_ref", "the policy is the section policy, its training learner, its sampling rollout"),
    ("generation sampling sampling_params generation_config vllm", "sampling is the section rollout"),
)

FOREIGN: dict[str, str] = {key: sentence for keys, sentence in _GENERAL for key in keys.split()}
"""Key -> what to use here, whatever the section."""

_ETA = "{0} has no beta: its strength is loss.eta = 1/beta, larger is bolder"
OF_METHOD: dict[tuple[str, str], str] = {
    ("sppo", "beta"): _ETA.format("sppo") + "; the paper's eta 1000 is beta 0.001 in the authors' code",
    ("sppo", "tau"): "sppo has no pull to pi_ref: its strength is loss.eta, larger is bolder",
    ("rebel", "beta"): _ETA.format("rebel"),
    (
        "inpo",
        "beta",
    ): "inpo has no beta: loss.eta is the inverse of its step size, smaller is bolder, and loss.tau (0 to eta) pulls to pi_ref",
    ("ipo", "beta"): "ipo's beta is loss.tau here, as in its paper: the target margin is 1/(2 tau)",
    ("spo", "beta"): "spo has no beta: its softness is loss.alpha, and regulariser.coefficient weighs the pull to pi_ref",
    ("orpo", "beta"): "ORPO's lambda, which TRL calls beta, is loss.weight here",
    ("orpo", "alpha"): "ORPO's lambda is loss.weight here",
    ("slic_hf", "beta"): "slic_hf has no beta: the margin of its hinge is loss.delta, in nats",
    ("dpo", "eta"): "dpo has no eta: its strength is loss.beta, the inverse, so that smaller is bolder",
    ("dpo", "tau"): "dpo has no tau: its strength is loss.beta, smaller is bolder",
    ("cpo", "cpo_alpha"): "loss.alpha is the weight of the chosen response's negative log-likelihood",
    ("simpo", "simpo_gamma"): "loss.gamma is the target margin",
    ("simpo", "gamma_beta_ratio"): "loss.gamma is the target margin itself, gamma_beta_ratio times loss.beta",
    ("kto", "desirable_weight"): "loss.lambda_desirable is the weight of desirable responses",
    ("kto", "undesirable_weight"): "loss.lambda_undesirable is the weight of undesirable responses",
}
"""(loss, key) -> what to use here: a loss' own names come before the general ones."""
