"""Inference-free sparse encoder: a neural model weighs the terms of documents, queries need only a tokenizer.

    document    w(t) = log(1 + log(1 + relu(max over tokens i of h_i . e_t - threshold)))
    query       w(t) = idf(t) for each token t of the query, once; idf = ln(1 + (N - df + 0.5) / (df + 0.5))

Geng et al., Towards Competitive Search Relevance for Inference-Free Learned Sparse Retrievers, arXiv:2411.04403. Here
h are the last hidden states of all-MiniLM-L6-v2 and e its input embeddings, used as the head it does not have: the
encoder is UNTRAINED for this task. Threshold and the second log (as in OpenSearch's v3 models) were chosen on
SQuAD and PubMed texts that no test uses (docs/decisions/0004). df counts documents of the collection whose own tokens hold t.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tokenizers import Tokenizer

from index.errors import IndexFormatError, ModelError, WinnowError
from index.files import write_file
from index.options import InvertedIndexOptions, WeightImpacts
from index.segment import Encoded, Statistics
from index.snapshot import Arm
from index.vectors import SparseQuery, concatenate
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.minilm import WEIGHTS_SHA256, minilm_folder

SPECIAL_TOKEN = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")

TEXTS_TOGETHER = 64  # tokenized and sorted by length at a time; also the step of the progress bar


@dataclass(frozen=True, slots=True)
class InferenceFreeOptions:
    """What the vectors depend on, stored with an index. Lengths are in tokens, [CLS] and [SEP] included."""

    threshold: float = 2.5
    max_length: int = 256
    impacts: WeightImpacts = "u8"  # how weights are stored, see InvertedIndexOptions
    weights_sha256: str = WEIGHTS_SHA256

    def __post_init__(self) -> None:
        if self.impacts not in get_args(WeightImpacts):
            raise WinnowError(f"impacts is {self.impacts!r}; it must be one of {', '.join(get_args(WeightImpacts))}.")


class InferenceFreeEncoder:
    """`mini`: documents through all-MiniLM-L6-v2 with a tied head, queries by tokenizer and collection IDF."""

    name = "mini"

    def __init__(self, tokenizer: Tokenizer, options: InferenceFreeOptions | None = None):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.options = options or InferenceFreeOptions()
        self.num_terms: int = tokenizer.get_vocab_size(with_added_tokens=True)

    @cached_property
    def is_special(self) -> np.ndarray:
        """bool [terms]: tokens that stand for no word and never carry weight."""
        special = np.zeros(self.num_terms, bool)
        special[[number for token, number in self.tokenizer.get_vocab().items() if SPECIAL_TOKEN.fullmatch(token)]] = (
            True
        )
        return special

    def encode_documents(self, texts: Iterable[str]) -> Encoded:
        from retrieval.encoders.tied_head import TiedHeadModel

        if self.options.weights_sha256 != WEIGHTS_SHA256:
            raise ModelError(
                f"the index was built with weights {self.options.weights_sha256[:12]}..., this release has "
                f"{WEIGHTS_SHA256[:12]}...; index all documents again."
            )
        model = TiedHeadModel.load(minilm_folder())
        frequency, batches = np.zeros(self.num_terms, np.int32), []
        texts = iter(texts)
        while some := list(islice(texts, TEXTS_TOGETHER)):
            tokens = self._tokens(some)
            count_documents(tokens, frequency)
            shortened = [ids[: self.options.max_length - 2] for ids in tokens]
            batches.append(model.encode(shortened, self.options.threshold, self.is_special))
        vectors = concatenate(batches)
        options = InvertedIndexOptions(self.num_terms, self.options.impacts)
        return Encoded(vectors, options, Statistics(len(vectors.indptr) - 1, 0, frequency))

    def statistics(self, texts: Iterable[str], vectors: SparseRows, num_terms: int) -> Statistics:
        frequency = np.zeros(num_terms, np.int32)
        count_documents(self._tokens(list(texts)), frequency)
        return Statistics(len(vectors.indptr) - 1, 0, frequency)

    def _tokens(self, texts: list[str]) -> list[np.ndarray]:
        """The texts' own token numbers, none left out."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]

    def encode_query(self, text: str, arm: Arm) -> list[SparseQuery]:
        terms = np.unique(np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32))
        terms = terms[~self.is_special[terms]]
        df = arm.document_frequency([terms] * len(arm.indexes))
        weights = np.log(1 + (arm.documents - df + 0.5) / (df + 0.5)).astype(np.float32)
        return [SparseQuery(terms, weights)] * len(arm.indexes)

    def term(self, number: int, vocabulary: Vocabulary | None) -> str:
        token = str(self.tokenizer.id_to_token(number))
        return f"-{token[2:]}" if token.startswith("##") else token  # the end of a word, as dictionaries write it

    def terms_in(self, text: str, vocabulary: Vocabulary | None) -> set[int]:
        return set(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def write(self, path: Path) -> dict[str, Any]:
        write_file(path / "tokenizer.json", self.tokenizer.to_str(pretty=False).encode())
        return {"family": "inference-free", "options": asdict(self.options)}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> InferenceFreeEncoder:
        try:
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise IndexFormatError(f"{path / 'tokenizer.json'} cannot be read ({error}); build it again.") from error
        return cls(tokenizer, InferenceFreeOptions(**description["options"]))

    @classmethod
    def mini(cls, impacts: WeightImpacts | None = None) -> InferenceFreeEncoder:
        """The untrained default."""
        options = InferenceFreeOptions() if impacts is None else InferenceFreeOptions(impacts=impacts)
        return cls(Tokenizer.from_file(str(minilm_folder() / "tokenizer.json")), options)


def count_documents(tokens: Iterable[np.ndarray], frequency: np.ndarray) -> None:
    """Count each document once for each term it holds, into `frequency`."""
    for ids in tokens:
        frequency[np.unique(ids)] += 1
