#!/usr/bin/env python3
"""Writes tests/golden/tiny/weights: small checkpoints as PyTorch saves them, and their numbers.

Run by hand, after `pip install torch`:

    python3 scripts/checkpoint_reference.py
"""

import json
from collections import OrderedDict
from pathlib import Path

import torch

OUT = Path(__file__).parent.parent / "tests/golden/tiny/weights"


def state():
    base = torch.arange(24, dtype=torch.float32) / 8 - 1
    return OrderedDict(
        plain=base.reshape(4, 6).clone(),
        view=base[6:12].reshape(2, 3),  # shares a storage, from its seventh number on
        transposed=base.reshape(4, 6).clone().t(),
        parameter=torch.nn.Parameter(base[:3].clone()),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        half=base[:6].reshape(2, 3).half(),
        bfloat16=base[:6].reshape(2, 3).bfloat16(),
        double=base[:6].reshape(2, 3).double(),
        position_ids=torch.arange(5),
    )


def main():
    OUT.mkdir(exist_ok=True)
    tensors = state()
    tensors._metadata = OrderedDict({"": {"version": 1}})  # as Module.state_dict has it
    torch.save(tensors, OUT / "pytorch_model.bin")
    torch.save(tensors, OUT / "old_format.bin", _use_new_zipfile_serialization=False)
    torch.save(OrderedDict(sliced=tensors["plain"][:, 1:3]), OUT / "sliced.bin")
    numbers = {
        name: {"shape": list(tensor.shape), "numbers": tensor.float().flatten().tolist()}
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }
    (OUT / "numbers.json").write_text(json.dumps({"torch": torch.__version__, "tensors": numbers}))


if __name__ == "__main__":
    main()
