"""One line of ``raypref doctor``."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

Status = Literal["OK", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found."""

    status: Status
    """problem: a run cannot work, or not as it is set; warning: it may."""
    subject: str
    text: str
    remedy: str = ""
    """What to do about it; a command where there is one."""

    def lines(self, width: int) -> list[str]:
        """For a terminal: the status, the subject, the text, and the remedy below."""
        head, indent = f"{self.status:<8} {self.subject:<14} ", " " * 24
        remedy = textwrap.wrap(self.remedy, width - 24, initial_indent="-> ", break_long_words=False, break_on_hyphens=False)
        text = textwrap.wrap(self.text, width - 24, break_long_words=False, break_on_hyphens=False)
        return [head + text[0], *(indent + line for line in [*text[1:], *remedy])]
