#!/usr/bin/env python3
"""Writes small models of five families to tests/golden/tiny, and what transformers and bert-score
make of them; and for two older models the scores with idf weights and baselines.

The weights are random (seeded) and spread widely, so that a wrong term shows. Run by hand, after
`pip install transformers sentencepiece protobuf bert-score`:

    python3 scripts/golden_models.py
"""

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import bert_score
import torch
from bert_score.utils import get_idf_dict, get_tokenizer, sent_encode
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel, DebertaV2Config, DebertaV2TokenizerFast, DistilBertConfig, DistilBertTokenizerFast,
    ModernBertConfig, MPNetConfig, MPNetTokenizerFast, PreTrainedTokenizerFast)

GOLDEN = Path(__file__).resolve().parent.parent / "tests/golden"
TINY = GOLDEN / "tiny"
BASELINES = GOLDEN / "rescale_baseline/en"
LONGEST = 128
LAYER = 3
VERSIONS = {package: importlib.metadata.version(package)
            for package in ("torch", "transformers", "tokenizers", "bert-score")}

TEXTS = [
    "", "x", "Hello world", "caf\u00e9 \u4f60\u597d", "class A(B): pass  # comment",
    "The statement returns a new object with the given attribute.",
    "The function returns a value, and the value is an object with attributes. " * 5,
]

PAIRS = [
    ("Hello world", "Hello world"), ("Hello world", "hello there"),
    ("the function returns a value", "a value is returned by the function"),
    ("", ""), ("", "nonempty"), ("nonempty", "  "),
    ("caf\u00e9 \u4f60\u597d", "cafe \u4f60\u597d"), ("\U0001f680", "x"), ("  lead", "lead"),
    ("a b c d", "d c b a"), ("short", "This is a much longer text, " * 8),
    ("An object is " * 90, "An expression is " * 90),
    ("import os", "import sys"), ("raise TypeError", "raise ValueError now"),
]

# Requests, since the weights depend on all references of one. In the second each token of the
# reference is in all references; the third has a reference twice.
REQUESTS = [
    PAIRS,
    [("the function returns a value", "a value is returned by the function")],
    [("a new value", "the value"), ("some function", "the function"), ("the end", "the value")],
]

BERT_LIKE = {
    "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": LONGEST,
}
DISENTANGLED = {
    **BERT_LIKE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "layer_norm_eps": 1e-7,
}
ALONE = "by itself, without padding"


def distilbert_tokenizer():
    return DistilBertTokenizerFast(str(TINY / "bert/vocab.txt"), model_max_length=LONGEST)


def mpnet_tokenizer():
    return MPNetTokenizerFast(str(TINY / "tokenizers/mpnet.txt"), model_max_length=LONGEST)


def deberta_v2_tokenizer():
    return DebertaV2TokenizerFast(str(TINY / "tokenizers/deberta_v2.model"),
                                  model_max_length=LONGEST)


def modernbert_tokenizer():
    """Byte pairs, with the steps of the published tokenizer."""
    source = TINY / "deberta_v1"
    model = models.BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]",
        cls_token="[CLS]", mask_token="[MASK]", model_max_length=LONGEST,
        model_input_names=["input_ids", "attention_mask"])


# name: (tokenizer, config)
MODELS = {
    "distilbert": (distilbert_tokenizer, lambda size: DistilBertConfig(
        vocab_size=size, dim=48, n_layers=4, n_heads=4, hidden_dim=64,
        max_position_embeddings=LONGEST)),
    # As published: two more positions than tokens, since they are counted from 2.
    "mpnet": (mpnet_tokenizer, lambda size: MPNetConfig(**{
        **BERT_LIKE, "vocab_size": size, "max_position_embeddings": LONGEST + 2,
        "layer_norm_eps": 1e-5})),
    # As DeBERTa v3 is published, with fewer buckets.
    "deberta_v2": (deberta_v2_tokenizer, lambda size: DebertaV2Config(
        **DISENTANGLED, vocab_size=size, position_buckets=16, share_att_key=True,
        norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0)),
    # The other choice in each setting, and the convolution.
    "deberta_v2_conv": (deberta_v2_tokenizer, lambda size: DebertaV2Config(
        **DISENTANGLED, vocab_size=size, max_relative_positions=24, share_att_key=False,
        position_biased_input=True, type_vocab_size=2, conv_kernel_size=3, conv_act="gelu")),
    "modernbert": (modernbert_tokenizer, lambda size: ModernBertConfig(
        **BERT_LIKE, vocab_size=size, global_attn_every_n_layers=3, local_attention=8,
        global_rope_theta=160000.0, local_rope_theta=10000.0, reference_compile=False,
        pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2)),
}


def spread(model, seed):
    """Replaces the weights by random ones: norms around 1, biases and matrices around 0."""
    random = torch.Generator().manual_seed(seed)
    for name, weights in sorted(model.named_parameters()):
        noise = torch.randn(weights.shape, generator=random)
        if weights.dim() > 1:
            weights.data = noise * (0.5 if "embedding" in name else 0.2)
        else:
            weights.data = noise * 0.2 + (1.0 if name.endswith("weight") else 0.0)


def save(name, seed):
    """Writes the folder of a model as its authors would."""
    folder = TINY / name
    shutil.rmtree(folder, ignore_errors=True)
    make_tokenizer, make_config = MODELS[name]
    tokenizer = make_tokenizer()
    model = AutoModel.from_config(make_config(len(tokenizer)))
    if hasattr(model, "pooler"):
        model.pooler = None
    spread(model, seed)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def digits(number, count):
    """`number` with `count` significant digits; None for NaN, which JSON lacks."""
    return None if number != number else float(f"{number:.{count}g}")


def write(path, value):
    path.write_text(json.dumps({"versions": VERSIONS, **value}, separators=(",", ":")) + "\n")


def write_hidden_states(name):
    model = AutoModel.from_pretrained(name, attn_implementation="eager").eval()
    tokenizer = get_tokenizer(name)
    items = []
    for text in TEXTS:
        ids = sent_encode(tokenizer, text)
        if not ids:
            continue  # see `usable`
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        flat = [[digits(x, 7) for x in state.flatten().tolist()] for state in states]
        shape = [len(flat), len(ids), states[0].shape[-1]]
        items.append({"text": text, "input_ids": ids, "shape": shape, "hidden_states": flat})
    note = ("hidden_states[0] = output of the embeddings, hidden_states[k] = output of layer k, "
            "flat [tokens, hidden], before a norm after the last layer; each text alone; ids from "
            "bert_score.sent_encode")
    write(TINY / name / "hidden_states.json", {"note": note, "items": items})


def scores(name, pairs, **options):
    candidates, references = zip(*pairs)
    parts = bert_score.score(list(candidates), list(references), model_type=name, num_layers=LAYER,
                             lang="en", device="cpu", nthreads=0, **options)
    rows = zip(*(part.tolist() for part in parts))
    return [dict(zip(("precision", "recall", "f1"), (digits(x, 9) for x in row))) for row in rows]


def differ(a, b):
    return any((x is None) != (y is None) or (x is not None and abs(x - y) > 2e-6)
               for x, y in zip(a.values(), b.values()))


def request_scores(name, pairs, **options):
    """Of all pairs in one call; with `single`, of a pair alone, where that is something else."""
    together = scores(name, pairs, **options)
    for pair, score in zip(pairs, together):
        alone = scores(name, [pair], **options)[0]
        if differ(score, alone):
            score["single"] = alone
    return together


def usable(tokenizer, pairs):
    """Without empty texts where the tokenizer puts nothing around one; bert-score fails then."""
    if sent_encode(tokenizer, ""):
        return pairs
    return [pair for pair in pairs if all(text.strip() for text in pair)]


def write_scores(name):
    tokenizer = get_tokenizer(name)
    pairs = usable(tokenizer, PAIRS)
    items = [
        {"candidate": pair[0], "reference": pair[1], **score,
         "n_tokens": [len(sent_encode(tokenizer, text)) for text in pair]}
        for pair, score in zip(pairs, request_scores(name, pairs))
    ]
    note = f"one score() call with all pairs; 'single' where a pair {ALONE} differs by > 2e-6"
    write(TINY / name / "bertscore.json", {
        "note": note, "num_layers": LAYER, "tokenizer_class": type(tokenizer).__name__,
        "model_max_length": tokenizer.model_max_length, "items": items})


def write_baseline(name, seed):
    BASELINES.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    rows = (torch.rand(6, 3, generator=random) * 0.5 + 0.3).tolist()
    lines = [f"{layer},{p:.8f},{r:.8f},{f:.8f}\n" for layer, (p, r, f) in enumerate(rows)]
    path = BASELINES / f"{name}.tsv"
    path.write_text("LAYER,P,R,F\n" + "".join(lines))
    return {"rescale_with_baseline": True, "baseline_path": str(path)}


def write_weighted_scores(name, seed):
    baseline = write_baseline(name, seed)
    requests = []
    for pairs in REQUESTS:
        idf = {"idf": get_idf_dict([b for _, b in pairs], get_tokenizer(name), nthreads=0)}
        variants = {"idf": idf, "rescaled": baseline, "idf_rescaled": {**idf, **baseline}}
        results = {variant: request_scores(name, pairs, **options)
                   for variant, options in variants.items()}
        requests.append([
            {"candidate": a, "reference": b, **{key: rows[i] for key, rows in results.items()}}
            for i, (a, b) in enumerate(pairs)])
    note = (f"each request: one score() call for each variant; 'single' where a pair {ALONE}, with "
            "the request's idf, differs by > 2e-6")
    write(TINY / name / "bertscore_idf.json", {
        "note": note, "num_layers": LAYER, "baseline": f"rescale_baseline/en/{name}.tsv",
        "requests": requests})


def main():
    os.chdir(TINY)  # bert-score takes a path with "t5" in it for a T5
    for seed, name in enumerate(MODELS):
        save(name, seed)
        write_hidden_states(name)
        write_scores(name)
    for seed, name in enumerate(("bert", "roberta")):
        write_weighted_scores(name, seed)


if __name__ == "__main__":
    main()
