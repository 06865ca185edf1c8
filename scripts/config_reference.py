#!/usr/bin/env python3
"""Writes what a version of transformers fills into an empty config.json of each architecture to
tests/golden/config_defaults.json, beside what other versions do. Run by hand, in turn with
`pip install transformers==4.57.6` and with that of the other references:

    python3 scripts/config_reference.py
"""

import json
from pathlib import Path

import transformers
from transformers import CONFIG_MAPPING

OUT = Path(__file__).resolve().parent.parent / "tests/golden/config_defaults.json"
KINDS = ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "deberta", "deberta-v2", "modernbert"]


def main():
    every = {kind: CONFIG_MAPPING[kind]().to_dict() for kind in KINDS}
    first, *others = every.values()
    common = {key: value for key, value in first.items()
              if all(key in other and other[key] == value for other in others)}
    own = {kind: {key: value for key, value in settings.items() if key not in common}
           for kind, settings in every.items()}
    versions = json.loads(OUT.read_text()) if OUT.is_file() else {}
    versions[transformers.__version__] = {"common": common} | own
    lines = [f'{json.dumps(version)}: {{\n' + ",\n".join(
        f"  {json.dumps(kind)}: {json.dumps(settings, sort_keys=True)}" for kind, settings in kinds.items())
        + "\n}" for version, kinds in sorted(versions.items())]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
