#!/usr/bin/env python3
"""Writes tests/golden/folders/cases.json: what sentence-transformers makes of models' folders in which
one setting or another is changed, left out, or written in another version's layout.

Each case is a model of tests/golden/tiny with changes to its settings files and, if it has modules
after pooling, small weights that follow from three numbers (see `weights`). The test in
backend/tests/models/folders.rs builds the same folders. Run by hand, after
`pip install sentence-transformers`:

    python3 scripts/folder_reference.py
"""

import importlib.metadata
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig

GOLDEN = Path(__file__).resolve().parent.parent / "tests/golden"
TINY = GOLDEN / "tiny"
OUT = GOLDEN / "folders/cases.json"
# Not xlm_roberta: its tokenizer.json is not as its class would write it, and transformers 5 goes by
# the class.
BASES = ["bert", "roberta", "distilbert", "mpnet", "deberta_v1", "deberta_v2", "deberta_v2_conv",
         "modernbert"]
TEXTS = ["Hello World", " Caf\u00e9 [SEP] End.",
         "The function returns a Value, and the value is an object. " * 4]
# Stands for "this key is left out".
OUTSIDE = "(left out)"

CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"
WEIGHTS, SPECIAL = "model.safetensors", "special_tokens_map.json"
SENTENCE, MODEL = "sentence_bert_config.json", "config_sentence_transformers.json"
POOLING = "1_Pooling/config.json"
KINDS = ["Transformer", "Pooling"]


def config(base, name, **settings):
    """A plain encoder, whose tokens' mean is taken."""
    return {"name": f"{base}: {name}", "base": base, "settings": {CONFIG: settings}}


def tokens(base, name, file=TOKENIZER, **settings):
    return {"name": f"{base}: {name}", "base": base, "settings": {file: settings}}


def biases(name, **settings):
    """All biases there can be, which may not be there unless the settings say so."""
    sizes = {"attn.Wqkv": 144, "attn.Wo": 48, "mlp.Wi": 128, "mlp.Wo": 48, "attn_norm": 48, "mlp_norm": 48}
    names = ["embeddings.norm", "final_norm",
             *(f"layers.{layer}.{part}" for layer in range(4) for part in sizes)]
    added = {f"{part}.bias": [[sizes.get(".".join(part.split(".")[2:]), 48)], salt]
             for salt, part in enumerate(names) if part != "layers.0.attn_norm"}
    return config("modernbert", name, **settings) | {"added": added}


def module(position, kind):
    folder = "" if kind == "Transformer" else f"{position}_{kind}"
    return {"idx": position, "name": str(position), "path": folder,
            "type": f"sentence_transformers.models.{kind}"}


def pipeline(name, *kinds, base="bert", pooling=None, tensors=None, **files):
    """Modules after one another; `files` are settings by the names below."""
    kinds = [*KINDS, *kinds]
    names = {"sentence": SENTENCE, "model": MODEL, "tokenizer": TOKENIZER,
             "second": f"2_{''.join(kinds[2:3])}/config.json"}
    settings = {names[key]: value for key, value in files.items()}
    settings[POOLING] = {"embedding_dimension": 48} | (pooling or {"pooling_mode": "mean"})
    case = {"name": name, "base": base, "settings": settings,
            "modules": [module(*each) for each in enumerate(kinds)]}
    return case | ({"tensors": {f"2_{kinds[2]}/model.safetensors": tensors}} if tensors else {})


def dense(name, outputs, residual=False, **settings):
    bias = settings.get("bias", True)
    tensors = {"linear.weight": [[outputs, 48], 3]}
    tensors |= {"linear.bias": [[outputs], 5]} if bias else {}
    tensors |= {"residual.weight": [[outputs, 48], 11]} if residual else {}
    settings = {"in_features": 48, "out_features": outputs, "bias": bias} | settings
    settings = {key: value for key, value in settings.items() if value != OUTSIDE}
    return pipeline(f"Dense: {name}", "Dense", tensors=tensors, second=settings)


def activation(name):
    return {"activation_function": f"torch.nn.modules.{name}"}


def defaults(base):
    """Every key left out that the model's class would fill in with the same."""
    saved = json.loads((TINY / base / CONFIG).read_text())
    own = type(AutoConfig.from_pretrained(TINY / base))().to_dict()
    left_out = [key for key, value in saved.items()
                if key in own and own[key] == value and key != "model_type"]
    return config(base, "defaults left out", **dict.fromkeys(left_out, OUTSIDE))


def encoders():
    for base in BASES:
        yield config(base, "as it is")
        yield defaults(base)
    for act in ("relu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "tanh"):
        yield config("bert", f"hidden_act {act}", hidden_act=act)
    yield config("bert", "fewer layers", num_hidden_layers=2)
    for base in ("bert", "roberta", "mpnet", "deberta_v1", "deberta_v2"):
        yield config(base, "coarse norms", layer_norm_eps=0.3)
    yield config("roberta", "other padding", pad_token_id=4)
    yield config("distilbert", "relu", activation="relu")
    yield config("distilbert", "sinusoidal", sinusoidal_pos_embds=True)
    yield config("distilbert", "common names", dim=OUTSIDE, n_layers=OUTSIDE, n_heads=OUTSIDE,
                 hidden_size=48, num_hidden_layers=4, num_attention_heads=4)
    yield config("distilbert", "both names", num_hidden_layers=2, num_attention_heads=2)
    for base in ("deberta_v1", "deberta_v2"):
        yield config(base, "no relative attention", relative_attention=False)
        yield config(base, "relative attention left out", relative_attention=OUTSIDE)
        for terms in ("c2p", "P2C", "c2p|p2c", ["p2c"]):
            yield config(base, f"pos_att_type {terms}", pos_att_type=terms)
        yield config(base, "no terms", pos_att_type=OUTSIDE)
    yield config("deberta_v1", "no absolute positions", position_biased_input=False)
    yield config("deberta_v2", "few buckets", position_buckets=16, max_relative_positions=64)
    yield config("deberta_v2", "positions not normalised", norm_rel_ebd="none")
    yield config("deberta_v2", "norm of positions left out", norm_rel_ebd=OUTSIDE)
    for act in ("tanh", "relu", OUTSIDE):
        yield config("deberta_v2_conv", f"conv_act {act}", conv_act=act)
    yield config("deberta_v2_conv", "no convolution", conv_kernel_size=0)
    yield config("deberta_v2_conv", "convolution left out", conv_kernel_size=OUTSIDE)


def modernbert():
    old = {"global_rope_theta": OUTSIDE, "local_rope_theta": OUTSIDE}
    layers = {"layer_types": OUTSIDE, "global_attn_every_n_layers": OUTSIDE}
    full = {"rope_theta": 50.0, "rope_type": "default"}
    near = {"rope_theta": 20.0, "rope_type": "default"}

    def case(name, **settings):
        return config("modernbert", name, **({"rope_parameters": OUTSIDE} | old | settings))

    yield case("bases left out")
    yield case("bases of version 4", global_rope_theta=50.0, local_rope_theta=20.0)
    yield case("one base of version 4", global_rope_theta=50.0)
    yield case("bases of version 5",
               rope_parameters={"full_attention": full, "sliding_attention": near})
    yield case("one base of version 5", rope_parameters={"full_attention": full})
    yield case("both versions", global_rope_theta=9.0, local_rope_theta=8.0,
               rope_parameters={"full_attention": full, "sliding_attention": near})
    kinds = {"s": "sliding_attention", "f": "full_attention"}
    for types in ("ssff", "fsss", "ssss", "ffff", "sfsf"):
        yield case(f"layer_types {types}", **layers | {"layer_types": [kinds[t] for t in types]})
    for every in (1, 2, OUTSIDE):
        yield case(f"global_attn_every_n_layers {every}",
                   **layers | {"global_attn_every_n_layers": every})
    for window in (2, 5, OUTSIDE):
        yield case(f"local_attention {window}", local_attention=window)
    yield case("coarse norms", norm_eps=0.3)
    yield case("relu", hidden_activation="relu")
    yield biases("biases that there should not be")
    yield biases("some biases", attention_bias=True, norm_bias=True)
    yield biases("all biases", attention_bias=True, mlp_bias=True, norm_bias=True)


def sentences():
    modes = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
    for mode in modes:
        yield pipeline(f"pooling_mode {mode}", pooling={"pooling_mode": mode})
    for listed in (["max", "cls"], ["lasttoken"], modes[::-1]):
        yield pipeline(f"pooling_mode {'+'.join(listed)}", pooling={"pooling_mode": listed})
    flags = {mode: f"pooling_mode_{mode}" for mode in ("cls_token", "max_tokens", "mean_tokens")}
    yield pipeline("a flag alone", pooling={flags["cls_token"]: True})
    yield pipeline("no flag on", pooling={flag: False for flag in flags.values()})
    yield pipeline("several flags", pooling={flag: True for flag in flags.values()})
    yield pipeline("nothing about pooling", pooling={"include_prompt": True})
    yield pipeline("a mode beside flags", pooling={"pooling_mode": "max", flags["cls_token"]: True})
    for name in ("linear.Identity", "activation.Tanh", "activation.ReLU", "activation.Sigmoid",
                 "activation.SiLU", "activation.GELU"):
        yield dense(name, 3, **activation(name))
    yield dense("no activation named", 3)
    yield dense("no bias", 3, bias=False, **activation("linear.Identity"))
    yield dense("residual", 48, use_residual=True, **activation("activation.Tanh"))
    yield dense("projected residual", 3, residual=True, use_residual=True,
                **activation("activation.Tanh"))
    yield pipeline("LayerNorm", "LayerNorm", second={"dimension": 48},
                   tensors={"norm.weight": [[48], 2], "norm.bias": [[48], 7]})
    yield pipeline("Dropout, Normalize", "Dropout", "Normalize", second={"dropout": 0.5})
    yield pipeline("truncate_dim", "Normalize", model={"truncate_dim": 5})
    prompts = {"query": "search: ", "other": ""}
    yield pipeline("a default prompt", model={"prompts": prompts, "default_prompt_name": "query"})
    yield pipeline("prompts that are not the default", model={"prompts": prompts})
    yield pipeline("max_seq_length", sentence={"max_seq_length": 9})
    yield pipeline("max_seq_length over model_max_length", sentence={"max_seq_length": 20},
                   tokenizer={"model_max_length": 9})
    yield pipeline("model_max_length", tokenizer={"model_max_length": 9})
    yield pipeline("cut on the left", sentence={"max_seq_length": 9},
                   tokenizer={"truncation_side": "left"})
    for base in ("bert", "roberta", "mpnet", "modernbert", "deberta_v2"):
        yield pipeline(f"lower case: {base}", base=base, sentence={"do_lower_case": True})
    yield pipeline("cased words", tokenizer={"do_lower_case": False})
    yield pipeline("accents kept", tokenizer={"strip_accents": False})
    yield pipeline("a space in front", base="roberta", tokenizer={"add_prefix_space": True})
    yield pipeline("lengths of queries", sentence={"query_length": 5, "document_length": 6})
    empty = pipeline("the first settings that say something", sentence={})
    yield empty | {"settings": empty["settings"] | {"sentence_roberta_config.json": {"max_seq_length": 7}}}
    dots = pipeline("paths with a dot")
    yield dots | {"modules": [each | {"path": f"./{each['path']}"} for each in dots["modules"]]}
    yield pipeline("version 6's settings", sentence={
        "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}})


def special_tokens():
    for name in ("bos_token", "eos_token", "mask_token"):
        yield tokens("bert", f"{name} that is a word", **{name: "value"})
    yield tokens("deberta_v2", "split at punctuation", split_by_punct=True)
    for key, value in (("additional_special_tokens", ["value"]), ("extra_special_tokens", {"a": "value"}),
                       ("model_specific_special_tokens", {"a": "value"})):
        yield tokens("bert", f"{key} with a word", **{key: value})
    yield tokens("bert", "an older list of tokens", SPECIAL, bos_token="value")
    yield tokens("bert", "tokens with their ids", "added_tokens.json", value=20)


def weights(shape, salt):
    """Numbers that another language computes exactly alike."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 31 + salt * 17) % 19 - 9).float().div(16).reshape(shape)


def build(case, folder):
    shutil.copytree(TINY / case["base"], folder)
    for file, changes in case["settings"].items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        settings = json.loads(path.read_text()) if path.is_file() else {}
        settings |= changes
        settings = {key: value for key, value in settings.items() if value != OUTSIDE}
        path.write_text(json.dumps(settings))
    if "modules" in case:
        (folder / "modules.json").write_text(json.dumps(case["modules"]))
    if "added" in case:
        added = {name: weights(*each) for name, each in case["added"].items()}
        save_file(load_file(folder / WEIGHTS) | added, folder / WEIGHTS)
    for file, tensors in case.get("tensors", {}).items():
        save_file({name: weights(*each) for name, each in tensors.items()}, folder / file)


def rows(folder):
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    return [[float(f"{x:.6g}") for x in model.encode(text).tolist()] for text in TEXTS]


def main():
    cases = []
    for case in [*encoders(), *modernbert(), *sentences(), *special_tokens()]:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "model"
            build(case, folder)
            try:
                cases.append(case | {"rows": rows(folder)})
            except Exception as error:
                print(f"{case['name']}: the reference fails: {error!r:.300}")
    versions = {package: importlib.metadata.version(package)
                for package in ("torch", "transformers", "tokenizers", "sentence-transformers")}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = json.dumps({"versions": versions, "left_out": OUTSIDE, "texts": TEXTS})[:-1]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(f'{head}, "cases": [\n{lines}\n]}}\n')
    print(f"{len(cases)} cases, {OUT.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
