"""ARCHITECTURE.md lists all unsafe code there is; that each has its argument beside it, clippy checks."""

import collections
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ["backend", "bench", "crates", "examples", "fuzz", "src", "tests"]
UNSAFE = re.compile(r"^(?!\s*//).*\bunsafe\s*(?:\{|fn\b|impl\b|trait\b|extern\b|\()", re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+\.rs)` \|", re.MULTILINE)


class UnsafeCode(unittest.TestCase):
    def test_the_list_is_whole(self):
        files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.rs")]
        found = {str(file.relative_to(ROOT)): len(UNSAFE.findall(file.read_text())) for file in files}
        section = (ROOT / "ARCHITECTURE.md").read_text().split("## Unsafe code\n")[1].split("\n## ")[0]
        self.assertEqual(collections.Counter(ROW.findall(section)), +collections.Counter(found))

    def test_all_its_forms_are_seen(self):
        for code in ["x = unsafe { y }", "unsafe fn x()", "pub unsafe impl X", "unsafe extern \"C\"", "#[unsafe(no_mangle)]"]:
            self.assertTrue(UNSAFE.search(code), code)
        for code in ["// unsafe { x }", 'unsafe_code = "deny"', "#[expect(unsafe_code)]"]:
            self.assertFalse(UNSAFE.search(code), code)


if __name__ == "__main__":
    unittest.main()
