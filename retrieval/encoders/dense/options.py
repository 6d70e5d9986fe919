"""What the vectors of a dense encoder depend on, beside its weights."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, get_args

from index.dense.options import DenseIndexOptions, Similarity
from index.errors import WinnowError
from retrieval.encoders.options import LONGEST_TEXT, Dtype, Method, check_choice, check_whole
from retrieval.encoders.wishes import Wishes

POOLINGS = ("mean", "cls", "last", "max", "weighted_mean", "mean_sqrt_len")


@dataclass(frozen=True, slots=True)
class DenseOptions:
    """How one side (documents or queries) of a dense model turns a text into a vector. Lengths are in tokens.

    pooling         over the positions of a text: mean; cls, the first; last; max; weighted_mean, each by its number (Muennighoff,
                    SGPT, arXiv:2202.08904); mean_sqrt_len, the sum over the root of the length; several joined by + stand end to end
    max_length      longer texts are cut; special tokens count, prefix and suffix too
    special_tokens  whether the tokenizer adds its own ([CLS], [SEP], <s>)
    end_token       put at the end of each text, where the tokenizer puts none: `</s>` for E5-Mistral's kin
    prefix, suffix  text put before and after each text; a prompt, or an instruction
    include_prompt  whether the positions of the prefix are pooled
    bidirectional   lets a decoder's tokens see those after them
    dtype           what the model computes in; pooling and what follows are in float32
    method          pooling: as above; promptreps: `prompt_reps`, where prefix and suffix are the prompt, each kept whole, and max_length
                    counts the text alone
    """

    pooling: str = "mean"
    max_length: int = 512
    special_tokens: bool = True
    end_token: str = ""
    prefix: str = ""
    suffix: str = ""
    include_prompt: bool = True
    bidirectional: bool = False
    dtype: Dtype = "float32"
    method: Method = "pooling"

    def __post_init__(self) -> None:
        for mode in self.modes:
            check_choice("pooling", mode, POOLINGS)
        check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("method", self.method, get_args(Method))
        for name in ("special_tokens", "include_prompt", "bidirectional"):
            check_choice(name, getattr(self, name), (True, False))
        for name in ("prefix", "suffix", "end_token"):
            if not isinstance(getattr(self, name), str):
                raise WinnowError(f"{name} is {getattr(self, name)!r:.60}; it must be a text.")
        check_whole("max_length", self.max_length, LONGEST_TEXT)
        if self.method == "promptreps" and self.pooling != "last":
            raise WinnowError(f"pooling is {self.pooling!r}; with method='promptreps' it must be 'last'.")

    @property
    def modes(self) -> list[str]:
        """The poolings, whose vectors stand end to end."""
        if not isinstance(self.pooling, str):
            raise WinnowError(
                f"pooling is {self.pooling!r:.60}; it must be one of {', '.join(POOLINGS)}, or several of them joined by +."
            )
        return self.pooling.split("+")


OF_A_SIDE = tuple(option.name for option in fields(DenseOptions))


@dataclass(frozen=True)
class DenseWishes(Wishes):
    """What a user may say of a dense model beside its name.

    similarity        cosine or dot, where the files do not say (cosine, unless they do)
    truncate_dim      how many of a vector's first numbers are kept, for models trained so (Kusupati et al., Matryoshka, arXiv:2205.13147);
                      under cosine, what is left gets length 1
    normalize         gives vectors length 1 where the model's files do not
    factory, bytes_per_vector, training_seconds  how the vectors are found, see DenseIndexOptions
    """

    of_a_side: ClassVar[tuple[str, ...]] = OF_A_SIDE
    of_nobody: ClassVar[tuple[str, ...]] = (*Wishes.of_nobody, "queries")

    similarity: Similarity | None = None
    truncate_dim: int | None = None
    normalize: bool = False
    factory: str | None = None
    bytes_per_vector: int | None = None
    training_seconds: float | None = None

    def index_options(self, dimension: int, similarity: Similarity) -> DenseIndexOptions:
        """Raises WinnowError."""
        return DenseIndexOptions(dimension, similarity, self.factory, self.bytes_per_vector, self.training_seconds)
