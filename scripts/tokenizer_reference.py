#!/usr/bin/env python3
"""Writes tests/golden/tiny/tokenizers: what transformers makes of tokenizers in raw files.

Trains two small sentencepiece models and asks transformers for the ids of hard strings, with the
tokenizers in Rust (as sentence-transformers does) and in Python (as bert-score does). Run by hand,
after `pip install transformers sentencepiece protobuf bert-score`:

    python3 scripts/tokenizer_reference.py
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import sentencepiece
import tokenizers
import transformers
from bert_score.utils import sent_encode
from transformers import AutoTokenizer

TINY = Path(__file__).parent.parent / "tests/golden/tiny"
OUT = TINY / "tokenizers"
LIMIT = 512

TEXTS = [
    "", "Hello world", "  lead and trail \n", "a\tb\nc\r\nd",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m", "cafe\u0301 na\u0308ive A\u030angstro\u0308m",
    "\u4f60\u597d\u4e16\u754c mixed\u6587\u5b57", "\uf900\u2f800 compat",
    "\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "a\u0000b\ufffdc\u0007d\u200be\u00adf", "two  spaces   three\u00a0nbsp\u3000wide",
    "[CLS] x [SEP]y[MASK] z", "z [UNK][PAD]", "<s>a</s> b <mask> c<pad><unk>", "word" * 30,
    "don't can't I'll we've 'tis", "1,234.56 + 7\u20ac = \u00bd \u00b2",
    "UPPER Case \u00df \u0130stanbul", "\ufb01 \ufb03 \u210c \u2460 \uff21\uff22",
    "\uac00\ub098\ub2e4 \u1100\u1161", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd", "\u2581already \u2581 there",
    "x\u0301\u0302\u0303\u0304y", "\ud7a3\u200f\u202eabc", "a.b,c;d:e!f?g(h)i[j]k{l}m",
    "http://example.com/a?b=c&d=%20e", "  <mask>", "a <mask> b", "tab\tonly\ttabs",
    "\u0378", "\ue000\U000f0000", "end.\u2028next\u2029para\u0085nel", "\u20ac\u20ac\u20ac",
]

CORPUS = [
    "the function returns a value", "a value is returned by the function",
    "hello world, this is a test.", "An object is something that has properties and methods!",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m", "\u4f60\u597d\u4e16\u754c", "don't stop, can't stop",
    "numbers 1 2 3 4 5 6 7 8 9 0", "the quick brown fox jumps over the lazy dog",
] * 40

# A few replacements of characters; the usual table (nmt_nfkc) has 240 kB, so one model has that.
FEW_RULES = {
    "\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ", "\r": " ", "\u200b": "",
    "\ufb01": "fi", "\ufb03": "ffi", "\uff21": "A", "\uff22": "B", "\u00bd": "1\u20442",
    "\u00b2": "2", "e\u0301": "\u00e9", "A\u030a": "\u00c5",
}


def bpe(folder):
    return {name: f"{folder}/{name}" for name in ("vocab.json", "merges.txt")}


BERT = {"vocab.txt": "bert/vocab.txt"}
XLM_ROBERTA = {"sentencepiece.bpe.model": "tokenizers/xlm_roberta.model"}
DEBERTA_V2 = {"spm.model": "tokenizers/deberta_v2.model"}

# name: (files, tokenizer_config.json)
CASES = {
    "bert": (BERT, {"tokenizer_class": "BertTokenizer"}),
    "bert_cased": (BERT, {"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
    "bert_accents": (BERT, {"tokenizer_class": "BertTokenizer", "strip_accents": False,
                            "tokenize_chinese_chars": False}),
    "mpnet": ({"vocab.txt": "tokenizers/mpnet.txt"}, {"tokenizer_class": "MPNetTokenizer"}),
    "roberta": (bpe("roberta"), {"tokenizer_class": "RobertaTokenizer"}),
    "roberta_fast": (bpe("roberta"), {"tokenizer_class": "RobertaTokenizerFast"}),
    "roberta_prefix": (bpe("roberta"), {"tokenizer_class": "RobertaTokenizer",
                                        "add_prefix_space": True}),
    "deberta": (bpe("deberta_v1"), {"tokenizer_class": "DebertaTokenizer"}),
    "deberta_prefix": (bpe("deberta_v1"), {"tokenizer_class": "DebertaTokenizer",
                                           "add_prefix_space": True}),
    "xlm_roberta": (XLM_ROBERTA, {"tokenizer_class": "XLMRobertaTokenizer"}),
    "deberta_v2": (DEBERTA_V2, {"tokenizer_class": "DebertaV2Tokenizer"}),
    "deberta_v2_split": (DEBERTA_V2, {"tokenizer_class": "DebertaV2Tokenizer",
                                      "do_lower_case": True, "split_by_punct": True}),
}


def train(target, tmp, **options):
    corpus = Path(tmp) / "corpus.txt"
    corpus.write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=f"{tmp}/model", vocab_size=200, model_type="unigram",
        hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
    shutil.copy(f"{tmp}/model.model", target)


def write_inputs(tmp):
    train(OUT / "xlm_roberta.model", tmp, unk_id=0, bos_id=1, eos_id=2,
          normalization_rule_name="nmt_nfkc")
    rules = Path(tmp) / "rules.tsv"
    code = lambda text: " ".join(f"{ord(char):X}" for char in text)
    rules.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in FEW_RULES.items()))
    train(OUT / "deberta_v2.model", tmp, pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]",
          bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
          user_defined_symbols=["\u20ac\u20ac"], normalization_rule_tsv=str(rules))
    marks = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>"}
    lines = (TINY / "bert/vocab.txt").read_text().split("\n")
    (OUT / "mpnet.txt").write_text("\n".join(marks.get(line, line) for line in lines))


def reference(files, settings):
    with tempfile.TemporaryDirectory() as folder:
        for name, source in files.items():
            shutil.copy(TINY / source, Path(folder) / name)
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        rust = AutoTokenizer.from_pretrained(folder, use_fast=True)
        python = AutoTokenizer.from_pretrained(folder, use_fast=False)
        python.model_max_length = LIMIT
        embedding = [rust(text.strip(), truncation=True, max_length=LIMIT)["input_ids"]
                     for text in TEXTS]
        return {
            "files": files, "settings": settings,
            "cls": python.cls_token_id, "sep": python.sep_token_id,
            "embedding": embedding,
            "bert_score": [sent_encode(python, text) for text in TEXTS],
        }


def main():
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        write_inputs(tmp)
    result = {
        "versions": {module.__name__: module.__version__
                     for module in (transformers, tokenizers, sentencepiece)},
        "texts": TEXTS,
        "cases": {name: reference(*case) for name, case in CASES.items()},
    }
    (OUT / "ids.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
