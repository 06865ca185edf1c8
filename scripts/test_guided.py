"""Tests of guided.sh: which program is built as what advises, with programs that only note how they are called."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).with_name("guided.sh")
RUSTC = """
if [[ $1 == --print ]]; then echo /nowhere; else printf 'host: here\\nLLVM version: 22.1.2\\n'; fi"""
# What is built says with which flags it was.
CARGO = """
echo "${RUSTFLAGS:-}" >>"$NOTES"
while [[ $# -gt 0 && $1 != --target-dir ]]; do shift; done
[[ $# -gt 0 ]] || exit 0
mkdir -p "$2/here/dist"
echo "$RUSTFLAGS" >"$2/here/dist/gpu-bridge"
chmod +x "$2/here/dist/gpu-bridge\""""
PROFDATA = """
if [[ $2 == --version ]]; then echo 'LLVM version {major}.1.8'; else echo "merge" >>"$NOTES"; touch "$3"; fi"""


class Guided(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.notes = self.root / "notes"
        (self.root / "bin").mkdir()
        self.program("rustc", RUSTC)
        self.program("cargo", CARGO)
        self.program("python3", 'echo "train $2" >>"$NOTES"')
        self.program("openssl", "")

    def program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def build(self) -> tuple[str, list[str], str]:
        """What the program says of itself, what was done, and what the script said."""
        out = self.root / "gpu-bridge"
        self.notes.write_text("", encoding="utf-8")
        env = {
            "PATH": f"{self.root / 'bin'}:/usr/bin:/bin",
            "CARGO_TARGET_DIR": str(self.root / "target"),
            "NOTES": str(self.notes),
        }
        done = subprocess.run([SCRIPT, out], env=env, check=True, capture_output=True, text=True)
        self.assertTrue(os.access(out, os.X_OK))
        return out.read_text().strip(), self.notes.read_text().splitlines(), done.stderr

    def test_it_is_trained_once_and_built_as_that_advises(self) -> None:
        self.program("llvm-profdata-22", PROFDATA.format(major=22))
        flags, done, _ = self.build()
        target = self.root / "target"
        [profile] = (target / "guided").glob("*.profdata")
        self.assertEqual(flags, f"-Cprofile-use={profile}")
        counting = f" -Cprofile-generate={target}/guided/counts"
        trained = f"train {target}/guided/counting/here/dist/gpu-bridge"
        self.assertEqual(done, [counting, "", trained, "merge", f" {flags}"])
        again, done, _ = self.build()
        self.assertEqual((again, done), (flags, [counting, f" {flags}"]))

    def test_without_the_tool_of_the_compilers_llvm_it_is_built_once(self) -> None:
        self.program("llvm-profdata", PROFDATA.format(major=14))
        self.program("llvm-profdata-22", "exit 1")
        flags, done, said = self.build()
        self.assertEqual((flags, done), ("", [" "]))
        self.assertIn("rustup component add llvm-tools", said)


if __name__ == "__main__":
    unittest.main()
