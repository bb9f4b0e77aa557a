"""The file that ``raypref generate`` writes: one JSON object per prompt, with its answers and their revisions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypref.data.identity import content_id
from raypref.types import Chain


def record_of(item: Chain) -> dict[str, Any]:
    """A chain as a record: ``responses`` holds the last answers, ``revisions`` every version of each answer, the first version first.

    A prompt that is a chat stays one, so that an oracle can be asked what it would be asked in a run. ``id`` is there if the data gave one;
    otherwise ``content_id`` is, which follows from the prompt alone.
    """
    prompt = item.prompt
    return {
        **({"id": prompt.id} if prompt.named else {"content_id": content_id(prompt.text, prompt.chat)}),
        "prompt": [{"role": role, "content": content} for role, content in prompt.chat] or prompt.text,
        "responses": [response.text for response in item.rounds[-1]],
        "revisions": [[answers[k].text for answers in item.rounds] for k in range(len(item.rounds[0]))],
        "tokens": [[len(answers[k].token_ids) for answers in item.rounds] for k in range(len(item.rounds[0]))],
        "finish_reasons": [response.finish_reason for response in item.rounds[-1]],
    }


def write_chains(path: Path, items: Sequence[Chain]) -> None:
    """Write one JSON object per line. The file appears only when it is complete."""
    partial = path.with_name(path.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text("".join(json.dumps(record_of(item), ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    partial.rename(path)
