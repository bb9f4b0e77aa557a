"""One epoch of SPPO on the pairs of the iteration, in plain torch: pi_t's log-probs first, then the steps.

Shapes: N sequences (two a pair), T their longest, padded on the right.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.scripts import work

Pair = dict[str, Any]


def main() -> None:
    folder, iteration, own = work.stage()
    pairs = json.loads((own / "pairs.json").read_text())
    batches = [pairs[start : start + work.PAIRS] for start in range(0, len(pairs), work.PAIRS)]
    model = AutoModelForCausalLM.from_pretrained(work.policy(folder, iteration), dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=work.LR, weight_decay=0.0, fused=True)
    with torch.no_grad():
        previous = [logps(model, batch) for batch in batches]
    for batch, old in zip(batches, previous, strict=True):
        targets = work.ETA * (torch.tensor([rate for pair in batch for rate in pair["win_rates"]]) - 0.5)
        optimizer.zero_grad()
        ((logps(model, batch) - old - targets).square().sum() / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), work.MAX_GRAD_NORM)
        optimizer.step()
    target = work.policy(folder, iteration + 1)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(work.policy(folder, iteration)).save_pretrained(target)
    (own / "steps").write_text(str(len(batches)))


def logps(model: Any, batch: list[Pair]) -> Tensor:
    """(N,) log p(response | prompt), summed over tokens, in nats; the chosen one's before the rejected one's."""
    sequences = [(pair["prompt_ids"], response) for pair in batch for response in pair["response_ids"]]
    width = max(len(prompt) + len(response) for prompt, response in sequences)
    tokens, counts = torch.zeros(len(sequences), width, dtype=torch.long), torch.zeros(len(sequences), width)
    for row, (prompt, response) in enumerate(sequences):
        end = len(prompt) + len(response)
        tokens[row, :end] = torch.tensor(prompt + response)
        counts[row, len(prompt) : end] = 1.0
    logits = model(tokens).logits[:, :-1].float()
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return (chosen * counts[:, 1:]).sum(-1)


if __name__ == "__main__":
    main()
