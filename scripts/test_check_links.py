"""Tests of check_links.py: what it must find, and what it must let pass."""

import tempfile
import unittest
from pathlib import Path

import check_links

PAGE = """# The page
## Host `a_b`: down
## Twice
## Twice
<a id="by-hand"></a>
"""


class Links(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()
        (self.root / "docs").mkdir()
        (self.root / "docs/page.md").write_text(PAGE, encoding="utf-8")
        (self.root / "picture.png").touch()

    def problems(self, text: str) -> list[str]:
        page = self.root / "docs/here.md"
        page.write_text(text, encoding="utf-8")
        found = (check_links.problem(link, self.root) for link in check_links.links(page))
        return [why for why in found if why]

    def test_what_exists_passes(self) -> None:
        for target in (
            "page.md",
            "page.md#the-page",
            "page.md#host-a_b-down",
            "page.md#twice-1",
            "page.md#by-hand",
            "../docs/",
            "../picture.png",
            "/docs/page.md",
            "https://nowhere.example/#x",
            "mailto:nobody@example.org",
        ):
            self.assertEqual(self.problems(f"see [this]({target}), then"), [], target)

    def test_what_is_missing_is_found(self) -> None:
        for text, why in (
            ("[a](gone.md)", "no such file"),
            ("[![a](gone.png)](page.md)", "no such file"),
            ('[a](gone.md "a title")', "no such file"),
            ('<img src="../gone.png">', "no such file"),
            ("[a]: gone.md", "no such file"),
            ("[a](page.md#gone)", "no such heading"),
            ("[a](page.md#twice-2)", "no such heading"),
            ("[a](#gone)", "no such heading"),
            ("[a](../picture.png#part)", "no such heading"),
            ("[a](../../etc/passwd)", "leads out of the repository"),
        ):
            self.assertEqual(self.problems(text), [why], text)

    def test_every_link_of_a_line_counts(self) -> None:
        text = "[a](gone.md), [b](page.md) and [c](page.md#gone)"
        self.assertEqual(self.problems(text), ["no such file", "no such heading"])

    def test_code_has_no_links_and_no_headings(self) -> None:
        text = "`[a](gone.md)`\n```md\n[a](gone.md)\n# Inside\n```\n[a](#inside)\n[b](gone.md)"
        self.assertEqual(self.problems(text), ["no such heading", "no such file"])

    def test_hidden_folders_and_builds_are_not_looked_at(self) -> None:
        for folder in (".tools", "target"):
            (self.root / folder).mkdir()
            (self.root / folder / "x.md").touch()
        found = list(check_links.markdown_files(self.root))
        self.assertEqual(found, [self.root / "docs/page.md"])


if __name__ == "__main__":
    unittest.main()
