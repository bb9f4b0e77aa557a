"""Sample K responses to each prompt of the iteration from pi_t."""

from __future__ import annotations

import json

from vllm import LLM, SamplingParams

from benchmarks.scripts import work


def main() -> None:
    folder, iteration, own = work.stage()
    texts = json.loads((folder / "prompts.json").read_text())[iteration * work.PROMPTS : (iteration + 1) * work.PROMPTS]
    llm = LLM(
        str(work.policy(folder, iteration)),
        dtype="float32",
        enforce_eager=True,
        max_model_len=work.CONTEXT_TOKENS,
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    sampling = SamplingParams(n=work.RESPONSES, temperature=1.0, max_tokens=work.TOKENS, seed=iteration)
    outputs = llm.generate(texts, sampling, use_tqdm=False)
    groups = [
        {
            "prompt": output.prompt,
            "prompt_ids": list(output.prompt_token_ids),
            "responses": [sample.text for sample in output.outputs],
            "response_ids": [list(sample.token_ids) for sample in output.outputs],
        }
        for output in outputs
    ]
    (own / "responses.json").write_text(json.dumps(groups))


if __name__ == "__main__":
    main()
