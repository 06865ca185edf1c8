"""Texts of a given number of tokens, the same in every run.

Simple English sentences are put together from word lists. Every word is one token of the uncased
BERT vocabulary, so that a text's length in tokens is known when it is made: the words and full
stops, plus [CLS] and [SEP]. The benchmark checks that every engine counts the same.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SPECIAL_TOKENS = 2  # [CLS] and [SEP]
SHORTEST = 4
LONGEST = 256  # where the model truncates

# A quarter of the texts have less than 16 tokens, half less than 32, one in fifty 256.
MEDIAN_TOKENS = 32
SPREAD = 1.0  # standard deviation of the logarithm

ADJECTIVES = (
    "bright busy careful cold deep distant early empty famous friendly gentle green heavy honest "
    "large late light little local modern narrow new old patient plain quiet rich rough simple "
    "small soft strong warm wide wild young"
).split()
NOUNS = (
    "artist baker bank boat book bridge captain city coat cook country doctor door driver engine "
    "farmer field forest garden guest horse house island kitchen letter machine market mountain "
    "museum nurse office painter pilot river road sailor school ship singer station student table "
    "teacher tower town train tree village window writer"
).split()
VERBS = (
    "carried chose covered crossed described drew entered followed forgot found guarded heard "
    "helped joined kept left liked lost measured missed needed opened passed painted praised "
    "reached remembered returned saved sold studied visited wanted watched"
).split()
PLACES = "above across after against around before behind beside near under".split()


@dataclass(frozen=True)
class TextSet:
    """Texts that are embedded together; `lengths` are theirs in tokens."""

    name: str
    texts: tuple[str, ...]
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


def equal_lengths(count: int, tokens: int, seed: int) -> TextSet:
    """`count` texts of `tokens` tokens each."""
    return make(f"{count} × {tokens} tokens", [tokens] * count, seed)


def mixed_lengths(count: int, seed: int) -> TextSet:
    """`count` texts with lengths as people write them: many short ones, a few very long ones."""
    draw = random.Random(f"lengths {seed}")
    lengths = [
        min(max(round(draw.lognormvariate(math.log(MEDIAN_TOKENS), SPREAD)), SHORTEST), LONGEST)
        for _ in range(count)
    ]
    return make(f"{count} × {SHORTEST}…{LONGEST} tokens", lengths, seed)


def make(name: str, lengths: Sequence[int], seed: int) -> TextSet:
    words = words_of_sentences(random.Random(f"words {seed}"))
    return TextSet(name, tuple(text_of(tokens, words) for tokens in lengths), tuple(lengths))


def text_of(tokens: int, words: Iterator[str]) -> str:
    """The next words as a text of `tokens` tokens."""
    text = " ".join(next(words) for _ in range(tokens - SPECIAL_TOKENS))
    return text.replace(" .", ".")


def words_of_sentences(draw: random.Random) -> Iterator[str]:
    """Sentences without end, word by word; a full stop is a word of its own."""
    while True:
        yield from ("The", draw.choice(ADJECTIVES), draw.choice(NOUNS), draw.choice(VERBS))
        yield from ("the", draw.choice(NOUNS), draw.choice(PLACES))
        yield from ("the", draw.choice(ADJECTIVES), draw.choice(NOUNS), ".")
