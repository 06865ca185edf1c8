#!/usr/bin/env python3
"""Checks that the links in all Markdown files lead somewhere.

A relative link must name a file or folder of this repository; the part after `#` must be a heading
of that page, as GitHub makes anchors of them. Addresses elsewhere are not asked for. Exits 1, with
file and line of each broken link, if there are any.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
# Beside folders whose name begins with a dot.
SKIPPED = {"target"}

FENCE = re.compile(r"^\s*(```+|~~~+)")
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
LINKS = (
    re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)"),  # [text](target "title"), ![text](target)
    re.compile(r"^\s*\[[^\]]+\]:\s+<?([^\s>]+)>?"),  # [name]: target
    re.compile(r"\b(?:href|src|srcset)=\"([^\"\s]+)"),
)
NAMED = re.compile(r"<[^>]*\b(?:id|name)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"^([a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """A link to something in this repository, and where it stands."""

    page: Path
    line: int
    target: str


def main() -> int:
    pages = list(markdown_files(ROOT))
    all_links = [link for page in pages for link in links(page)]
    problems = [(link, why) for link in all_links if (why := problem(link, ROOT))]
    for link, why in problems:
        place = f"{link.page.relative_to(ROOT)}:{link.line}"
        print(f"{place}: {link.target}: {why}", file=sys.stderr)
    print(f"{len(all_links)} relative links in {len(pages)} files, {len(problems)} broken")
    return 1 if problems else 0


def markdown_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in SKIPPED)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".md"))


def links(page: Path) -> Iterator[Link]:
    for number, text in prose(page):
        text = CODE.sub("", text)
        for pattern in LINKS:
            for target in pattern.findall(text):
                if not ELSEWHERE.match(target):
                    yield Link(page, number, target)


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines outside of fenced code, with their numbers."""
    fence = None
    for number, text in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        mark = FENCE.match(text)
        if fence is None and not mark:
            yield number, text
        elif fence is None:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = None


def problem(link: Link, root: Path) -> str | None:
    """What is wrong with a link, if anything."""
    path, _, anchor = link.target.partition("#")
    path = unquote(path)
    start = root if path.startswith("/") else link.page.parent
    target = Path(os.path.normpath(start / path.lstrip("/"))) if path else link.page
    if not target.is_relative_to(root):
        return "leads out of the repository"
    if not target.exists():
        return "no such file"
    if anchor and (target.suffix != ".md" or unquote(anchor) not in anchors(target)):
        return "no such heading"
    return None


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings, and those written out in HTML."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for _, text in prose(page):
        found.update(NAMED.findall(text))
        if heading := HEADING.match(text):
            name = slug(heading[1])
            found.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
    return found


def slug(heading: str) -> str:
    """`Host `down` ([what](x.md))` becomes `host-down-what`."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
