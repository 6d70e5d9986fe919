"""What the vectors of a neural encoder depend on, beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from index.errors import WinnowError

Activation = Literal["log1p", "log1p_log1p"]
Pooling = Literal["max", "sum", "mean", "last"]
Dtype = Literal["float32", "bfloat16", "float16"]
Projection = Literal["own", "tied"]
Method = Literal["pooling", "promptreps"]

LONGEST_TEXT = 1 << 20  # tokens
PROMPT_REPS = {  # what these must be where the method is promptreps
    "activation": "log1p",
    "pooling": "last",
    "threshold": 0.0,
    "special_tokens": False,
    "echo": False,
    "own_terms": False,
    "prune_ratio": 0.0,
    "projection": "own",
}


@dataclass(frozen=True, slots=True)
class NeuralOptions:
    """How one side (documents or queries) of a model turns text into weights. Lengths are in tokens.

    activation       log1p: ln(1 + relu(x)), SPLADE's; log1p_log1p: ln(1 + ln(1 + relu(x))), OpenSearch's from version 3 on
    pooling          over the positions of a text: max (SPLADE v2 and later), sum (v1), mean, last (PromptReps)
    threshold        taken off each logit before the activation
    max_length       longer texts are cut; special tokens count, prefix and suffix too
    special_tokens   whether the tokenizer adds its own ([CLS], [SEP], <s>); most decoders do worse with them
    pool_special     whether positions of special tokens are pooled
    special_terms    whether special tokens and [unused..] may carry weight
    prefix, suffix   text put before and after each text; a prompt
    echo             the text twice; only the second one is pooled (Springer et al., arXiv:2402.15449)
    bidirectional    lets a decoder's tokens see those after them
    own_terms        only terms that the text itself holds (SPLADE-lexical)
    top_k            only so many terms, the heaviest (None: all)
    prune_ratio      only terms with more than this part of the text's largest weight
    projection       tied: the model has no masked-language head, its input embeddings serve as one
    dtype            what the model computes in
    method           pooling: as above; promptreps: `prompt_reps`, where prefix and suffix are the prompt, each kept whole, max_length
                     counts the text alone, and only what PROMPT_REPS names is fixed
    expansion_terms  of promptreps: so many terms beside those of the text's own words
    """

    activation: Activation = "log1p"
    pooling: Pooling = "max"
    threshold: float = 0.0
    max_length: int = 512
    special_tokens: bool = True
    pool_special: bool = True
    special_terms: bool = True
    prefix: str = ""
    suffix: str = ""
    echo: bool = False
    bidirectional: bool = False
    own_terms: bool = False
    top_k: int | None = None
    prune_ratio: float = 0.0
    projection: Projection = "own"
    dtype: Dtype = "float32"
    method: Method = "pooling"
    expansion_terms: int = 0

    def __post_init__(self) -> None:
        choices = {
            "activation": Activation,
            "pooling": Pooling,
            "projection": Projection,
            "dtype": Dtype,
            "method": Method,
        }
        for name, choice in choices.items():
            check_choice(name, getattr(self, name), get_args(choice))
        for name in ("special_tokens", "pool_special", "special_terms", "echo", "bidirectional", "own_terms"):
            check_choice(name, getattr(self, name), (True, False))
        for name in ("prefix", "suffix"):
            if not isinstance(getattr(self, name), str):
                raise WinnowError(f"{name} is {getattr(self, name)!r:.60}; it must be a text.")
        check_whole("max_length", self.max_length, LONGEST_TEXT)
        if self.top_k is not None:
            check_whole("top_k", self.top_k, LONGEST_TEXT)
        check_number("threshold", self.threshold, float("inf"))
        check_number("prune_ratio", self.prune_ratio, 1.0)
        if self.method == "promptreps":
            for name, value in PROMPT_REPS.items():
                if getattr(self, name) != value:
                    raise WinnowError(
                        f"{name} is {getattr(self, name)!r}; with method='promptreps' it must be {value!r}."
                    )
        if self.expansion_terms != 0:
            check_whole("expansion_terms", self.expansion_terms, LONGEST_TEXT)
            if self.method != "promptreps":
                raise WinnowError(
                    f"expansion_terms is {self.expansion_terms}; only method='promptreps' has it, so leave it out."
                )


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
        raise WinnowError(f"{name} is {value!r:.60}; it must be one of {', '.join(map(str, choices))}.")


def check_whole(name: str, value: Any, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise WinnowError(f"{name} is {value!r:.60}; it must be a whole number from 1 to {most:,}.")


def check_number(name: str, value: Any, below: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < below:
        raise WinnowError(f"{name} is {value!r:.60}; it must be a number from 0 to below {below:g}.")
