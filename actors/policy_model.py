"""Loads the policy with transformers: model, tokenizer, end tokens, context limit.

The learner, references and engines all use this module, so that they cannot disagree. Its functions import transformers, the module does
not: importing ``actors`` in the driver's process stays quick.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypref.data.chats import shortened
from raypref.errors import ConfigError
from raypref.sections import LoraConfig, PolicyConfig
from raypref.training import fused

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from raypref.data.policy_facts import PolicyFacts

logger = logging.getLogger(__name__)


def load_model(policy: PolicyConfig, device: torch.device, *, trainable: bool = False) -> PreTrainedModel:
    """The policy's causal language model on ``device``, in ``policy.dtype``.

    Weights come from safetensors files only, so that nothing is unpickled.

    Args:
        policy: which model, and how.
        device: of its parameters.
        trainable: for the learner: with ``policy.lora`` the model is wrapped by peft and only the adapter requires a gradient (its
            initial values come from torch's generator, which the caller seeds); ``policy.gradient_checkpointing`` applies.
            Otherwise: the bare model in evaluation mode, without gradients and without an adapter.

    Raises:
        ConfigError: ``policy.path`` is not a model that can be loaded, or its files lack weights.
    """
    with _garbage_left_alone():
        import torch
        from transformers import AutoModelForCausalLM

        model, found = _pretrained(
            policy,
            AutoModelForCausalLM.from_pretrained,
            dtype=getattr(torch, policy.dtype),
            attn_implementation=policy.attention,
            use_safetensors=True,
            device_map={"": device},  # each tensor goes there as it is read: host memory never holds the whole model beside it
            output_loading_info=True,
        )
    refuse_missing(found["missing_keys"], policy)
    return prepared(model, policy, device, trainable=trainable)


def refuse_missing(names: Collection[str], policy: PolicyConfig) -> None:
    """Refuse a model whose files lack weights of it, which transformers would fill with random values."""
    if names:
        raise ConfigError(f"policy.path: the files of {policy.path!r} lack {len(names)} weights of its model, {min(names)} the first")


def prepared(model: Any, policy: PolicyConfig, device: torch.device, *, trainable: bool) -> Any:
    """A model that has its weights, as ``load_model`` returns it; same arguments."""
    if fused.available(device):
        fused.fuse_layers(model)
    if not trainable:
        return model.requires_grad_(False).eval()
    if policy.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if policy.lora is not None:
        model = _with_adapter(model, policy.lora)
    return model.train()


@contextlib.contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """No garbage collection in the block. Importing transformers makes many objects that stay; searching them for garbage repeatedly takes
    a fifth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def stored_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name -> buffer, of those that a checkpoint stores."""
    stored = model.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in stored}


def load_tokenizer(policy: PolicyConfig) -> PreTrainedTokenizerBase:
    """The tokenizer in ``policy.tokenizer``, by default the one beside the model.

    Raises:
        ConfigError: there is none.
    """
    with _garbage_left_alone():
        from transformers import AutoTokenizer

        if policy.tokenizer is None:
            return _pretrained(policy, AutoTokenizer.from_pretrained)
        return _pretrained(policy.model_copy(update={"path": policy.tokenizer}), AutoTokenizer.from_pretrained, key="policy.tokenizer")


def end_token_ids(policy: PolicyConfig) -> tuple[int, ...]:
    """The tokens that end a response, in order of preference; possibly none (``raypref.data.policy_facts.end_tokens``).

    Engines stop at each of them, given answers end with one, and an export names them all.

    Raises:
        ConfigError: ``policy.path`` is not a model directory, or there is no tokenizer.
    """
    return _end_tokens(policy, load_tokenizer(policy))


def _end_tokens(policy: PolicyConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    from raypref.data.policy_facts import end_tokens

    named = named_end_tokens(policy)
    ends = end_tokens(tokenizer, named)
    if further := [tokenizer.convert_ids_to_tokens(k) for k in ends if k not in named]:
        logger.warning(
            "policy.path: the generation config of %s does not name the end tokens %s of its tokenizer or chat template; answers "
            "end there, too, and an export names them",
            policy.path,
            further,
        )
    return ends


def named_end_tokens(policy: PolicyConfig) -> tuple[int, ...]:
    """The end tokens that generation_config.json names, else those of config.json, in its order; possibly none.

    Raises:
        ConfigError: ``policy.path`` is not a model directory.
    """
    from transformers import GenerationConfig

    config = model_config(policy)
    try:
        end = GenerationConfig.from_pretrained(policy.path).eos_token_id
    except OSError:  # a model may come without the file
        end = None
    if end is None:
        end = getattr(config, "eos_token_id", None)
    if end is None:
        return ()
    return tuple(map(int, end)) if isinstance(end, list | tuple) else (int(end),)


def facts_of(policy: PolicyConfig) -> PolicyFacts:
    """Tokenizer, context limit and end tokens, for the run's data.

    Raises:
        ConfigError: the policy cannot be read, or states no limit.
    """
    from raypref.data.policy_facts import PolicyFacts

    tokenizer = load_tokenizer(policy)
    vocabulary = getattr(model_config(policy).get_text_config(), "vocab_size", None)
    return PolicyFacts(tokenizer, context_limit(policy), _end_tokens(policy, tokenizer), vocabulary)


def context_limit(policy: PolicyConfig) -> int:
    """How many tokens a prompt and its response may have together.

    Raises:
        ConfigError: ``policy.max_context_tokens`` is above the model's positions, or neither states a limit; or the model's rotary
            frequencies change at a length below the limit (longrope): one longer sequence changes them for its whole batch.
    """
    config = model_config(policy).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    asked = positions if policy.max_context_tokens is None else policy.max_context_tokens
    if asked is None:
        raise ConfigError(f"policy.max_context_tokens: {policy.path} states no limit; set one")
    if positions is not None and asked > positions:
        raise ConfigError(
            f"policy.max_context_tokens: {asked} is above the {positions} positions of {policy.path}; set at most {positions}"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    switch = rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None
    if switch is not None and asked > switch:
        raise ConfigError(
            f"policy.max_context_tokens: {asked}, but {policy.path} uses other rotary frequencies beyond {switch} tokens (longrope), and "
            f"one long sequence would change them for all others of its batch; set at most {switch}"
        )
    return int(asked)


def check_routers(policy: PolicyConfig) -> None:
    """Refuse a mixture of experts whose config asks for the routers' auxiliary loss. What its routers compute otherwise (normalised or
    scaled weights, groups of experts, noise in training) is the model's own code.

    Raises:
        ConfigError: ``output_router_logits`` is true in config.json.
    """
    if getattr(model_config(policy).get_text_config(), "output_router_logits", False):
        raise ConfigError(
            f"policy.path: config.json of {policy.path!r} has output_router_logits: true, which asks for the routers' auxiliary loss. It "
            f"is a function of all tokens of a forward pass, so it would change with the division into micro-batches and ranks; raypref "
            f"trains without it. Set output_router_logits to false there"
        )


def model_config(policy: PolicyConfig) -> PretrainedConfig:
    """The model's config.json, read by transformers.

    Raises:
        ConfigError: ``policy.path`` is not a model that can be read.
    """
    from transformers import AutoConfig

    return _pretrained(policy, AutoConfig.from_pretrained)


def _pretrained(policy: PolicyConfig, load: Any, key: str = "policy.path", **arguments: Any) -> Any:
    """``load(policy.path, ...)`` with a missing directory or file reported as an error of the config."""
    _check_directory(policy.path, key)
    try:
        return load(policy.path, trust_remote_code=policy.trust_remote_code, **arguments)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{key}: cannot load {policy.path!r}: {error}") from error


def _check_directory(path: str, key: str) -> None:
    """Raise ``ConfigError`` for a path that is neither a directory nor, by its form (``name``, ``owner/name``), a hub name."""
    if Path(path).is_dir():
        return
    looks_local = path.startswith((".", "~", os.sep)) or path.count("/") > 1 or Path(path).exists()
    if looks_local:
        raise ConfigError(
            f"{key}: no model directory at {path!r} (looked in {Path.cwd()}); give a directory with config.json, or a hub name"
        )


def without_weights(policy: PolicyConfig) -> Any:
    """The policy as it is trained, with its adapter, on the meta device.

    Raises:
        ConfigError: a name of ``policy.lora.target_modules`` matches no module, or a module of a kind that peft does not adapt.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(policy), trust_remote_code=policy.trust_remote_code)
    if policy.lora is None:
        return model
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if not list(module.children())}
    wanted = policy.lora.target_modules
    if isinstance(wanted, list):
        paths = [f".{name}" for name, _ in model.named_modules()]
        missing = [name for name in wanted if not any(path.endswith(f".{name}") for path in paths)]
        if missing or not wanted:
            raise ConfigError(
                f"policy.lora.target_modules: no module {', '.join(missing) or 'named'}; the model has {', '.join(sorted(names))}"
            )
    try:
        return _with_adapter(model, policy.lora)
    except (ValueError, TypeError, re.error) as error:
        raise ConfigError(
            f"policy.lora.target_modules: {wanted!r} fits no module that peft can adapt: {shortened(str(error))}; the model has "
            f"{', '.join(sorted(names))}"
        ) from error


def _with_adapter(model: PreTrainedModel, lora: LoraConfig) -> Any:
    import peft

    if model.is_gradient_checkpointing:
        model.enable_input_require_grads()  # the frozen embedding's output must carry a gradient through the checkpointed blocks
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config, autocast_adapter_dtype=False)
