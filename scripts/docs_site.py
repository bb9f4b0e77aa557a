"""What MkDocs does not do by itself for this site; mkdocs.yml names this file as its hook.

- Formulas, written ``$...$`` or ``$$...$$`` as GitHub renders them, become MathML when the site is built. Browsers show it themselves, so
  that a page needs no script and no network, which KaTeX and MathJax do unless a copy of them is kept here.
- README.md is the home page; CONTRIBUTING.md, CHANGELOG.md and the READMEs of the recipes and of the benchmarks are pages, too.
- Links are written as GitHub follows them, relative to the file in the repository. Those to pages of the site are rewritten to lead there;
  the others, to code, become plain text, because the site has no copy of the code.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
HOME = "index.md"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(\\\(|\\\[)(.*?)(\\\)|\\\])</\1>', re.DOTALL)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_LOGARITHM = re.compile(r"<mi>log</mi>")
_FENCED = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def _pages_outside() -> Iterator[tuple[str, str]]:
    """(path in the repository, path in the site) of the pages that are not in docs/."""
    yield "README.md", HOME
    for path in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"):
        yield path, path
    for readme in sorted((ROOT / "examples").glob("*/README.md")):
        path = readme.relative_to(ROOT).as_posix()
        yield path, path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for path, place in _pages_outside():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links, those in code blocks aside."""
    outside = dict(_pages_outside())
    here = {place: path for path, place in outside.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewritten(match: re.Match[str]) -> str:
        text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match.group()
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        place = there.removeprefix("docs/") if there.startswith("docs/") else outside.get(there, outside.get(f"{there}/README.md"))
        if place is None:
            assert (ROOT / there).exists(), f"{here}: a link to {target}, which does not exist"
            return text
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or '.')}{'#' + anchor if anchor else ''})"

    parts, end = [], 0
    for block in _FENCED.finditer(markdown):
        parts += [_LINK.sub(rewritten, markdown[end : block.start()]), block.group()]
        end = block.end()
    return "".join([*parts, _LINK.sub(rewritten, markdown[end:])])


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put MathML in place of the formulas that ``pymdownx.arithmatex`` has marked."""

    def formula(match: re.Match[str]) -> str:
        display: Literal["block", "inline"] = "block" if match[1] == "div" else "inline"
        # latex2mathml leaves no space between a logarithm and its argument.
        return _LOGARITHM.sub(r'<mi>log</mi><mspace width="0.17em"/>', convert(html.unescape(match[3]).strip(), display=display))

    return _FORMULA.sub(formula, content)
