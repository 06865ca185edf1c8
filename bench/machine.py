"""What the figures depend on: the machine and the versions."""

import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from contenders import OPTIONAL, Programs

PYTHON_PACKAGES = (
    "torch", "sentence-transformers", "transformers", "tokenizers", "bert-score",
    "openvino", "onnxruntime", "optimum-intel", "optimum-onnx",
    "fastapi", "uvicorn", "httptools", "uvloop",
)  # fmt: skip
CRATES = ("candle-core", "candle-transformers", "tokenizers")
SIMD_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "asimd")


def machine() -> dict[str, str]:
    """Facts about the machine, label by label."""
    cpu = Path("/proc/cpuinfo").read_text()
    name = first(r"model name\s*:\s*(.*)", cpu) or platform.processor()
    return {
        "CPU": f"{name}, {len(os.sched_getaffinity(0))} processors for this run",
        "SIMD": ", ".join(simd_flags(cpu)) or "unknown",
        "Memory": memory(),
        "System": f"{system()}, Linux {platform.release()}, {platform.machine()}",
        "Load before": f"{os.getloadavg()[0]:.2f} (average of the last minute)",
    }


def simd_flags(cpu: str) -> list[str]:
    flags = first(r"(?:flags|Features)\s*:\s*(.*)", cpu).split()
    return [flag for flag in SIMD_FLAGS if flag in flags]


def memory() -> str:
    total = first(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return f"{int(total) * 1024 / 1e9:.0f} GB"


def system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def versions(root: Path) -> dict[str, str]:
    """Versions of everything that is compared, name by name."""
    found = {
        "gpu-bridge": commit(root),
        "rustc": run(root, "rustc", "--version").removeprefix("rustc "),
        **crates(root),
        "Python": platform.python_version(),
    }
    for package in PYTHON_PACKAGES:
        found[f"{package} (Python)"] = package_version(package)
    return found


def proxy_versions(root: Path, programs: Programs) -> dict[str, str]:
    """Versions of the proxies that are compared, name by name."""
    # nginx tells its version as an error.
    shown = subprocess.run(
        (programs.nginx, "-v"), check=True, capture_output=True, text=True
    ).stderr
    optional = {
        name: first(r"Version: (\S+)", run(root, f"{Path(path).parent}/pip", "show", package))
        for package, name in OPTIONAL.items()
        if (path := programs.optional.get(name))
    }
    return {
        "gpu-bridge": commit(root),
        "rustc": run(root, "rustc", "--version").removeprefix("rustc "),
        "nginx": first(r"nginx/(\S+)", shown),
        "HAProxy": first(r"version (\S+)", run(root, programs.haproxy, "-v")),
        **optional,
    }


def commit(root: Path) -> str:
    changed = run(root, "git", "status", "--porcelain", "--untracked-files=no")
    return run(root, "git", "rev-parse", "--short=12", "HEAD") + (" and changes" if changed else "")


def crates(root: Path) -> dict[str, str]:
    """Versions of the Rust crates, from the lock file."""
    data = json.loads(run(root, "cargo", "metadata", "--format-version", "1", "--locked"))
    packages = {package["name"]: package["version"] for package in data["packages"]}
    return {f"{name} (crate)": packages[name] for name in CRATES}


def package_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def run(root: Path, *command: str) -> str:
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return output.strip()


def first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1].strip() if found else ""
