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
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from index.errors import IndexFormatError, ModelError
from index.storage import open_array, save_array
from index.vectors import SparseQuery, concatenate
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.minilm import WEIGHTS_SHA256, minilm_folder

SPECIAL_TOKEN = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")
TEXTS_TOGETHER = 64  # tokenized and sorted by length at a time; also the step of the progress bar


@dataclass(frozen=True, slots=True)
class InferenceFreeOptions:
    """What the vectors depend on, stored with an index. Lengths are in tokens, [CLS] and [SEP] included."""

    threshold: float = 2.5
    max_length: int = 256
    weights_sha256: str = WEIGHTS_SHA256


class InferenceFreeEncoder:
    """`mini`: documents through all-MiniLM-L6-v2 with a tied head, queries by tokenizer and collection IDF."""

    name = "mini"

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: InferenceFreeOptions | None = None,
        document_frequency: np.ndarray | None = None,
        num_docs: int = 0,
    ):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.options = options or InferenceFreeOptions()
        self.document_frequency = (
            np.zeros(self.num_terms, np.int64) if document_frequency is None else document_frequency
        )
        self.num_docs = num_docs

    @property
    def num_terms(self) -> int:
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    @cached_property
    def is_special(self) -> np.ndarray:
        """bool [terms]: tokens that stand for no word and never carry weight."""
        special = np.zeros(self.num_terms, bool)
        special[[number for token, number in self.tokenizer.get_vocab().items() if SPECIAL_TOKEN.fullmatch(token)]] = (
            True
        )
        return special

    def encode_documents(self, texts: Iterable[str], known: SparseRows) -> tuple[InferenceFreeEncoder, SparseRows]:
        from retrieval.encoders.tied_head import TiedHeadModel

        if self.options.weights_sha256 != WEIGHTS_SHA256:
            raise ModelError(
                f"the index was built with weights {self.options.weights_sha256[:12]}..., this release has "
                f"{WEIGHTS_SHA256[:12]}...; index all documents again."
            )
        model = TiedHeadModel.load(minilm_folder())
        document_frequency = self.document_frequency.copy()
        batches = [known]
        texts = iter(texts)
        while some := list(islice(texts, TEXTS_TOGETHER)):
            encodings = self.tokenizer.encode_batch_fast(some, add_special_tokens=False)
            tokens = [np.array(encoding.ids, np.int64) for encoding in encodings]
            for ids in tokens:
                document_frequency[np.unique(ids)] += 1
            shortened = [ids[: self.options.max_length - 2] for ids in tokens]
            batches.append(model.encode(shortened, self.options.threshold, self.is_special))
        vectors = concatenate(batches)
        num_docs = len(vectors.indptr) - 1
        return InferenceFreeEncoder(self.tokenizer, self.options, document_frequency, num_docs), vectors

    def impacts(self, vectors: SparseRows) -> SparseRows:
        return vectors

    def encode_query(self, text: str) -> SparseQuery:
        terms = np.unique(np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32))
        terms = terms[~self.is_special[terms]]
        df = self.document_frequency[terms]
        return SparseQuery(terms, np.log(1 + (self.num_docs - df + 0.5) / (df + 0.5)).astype(np.float32))

    def term(self, number: int) -> str:
        token = str(self.tokenizer.id_to_token(number))
        return f"-{token[2:]}" if token.startswith("##") else token  # the end of a word, as dictionaries write it

    def terms_in(self, text: str) -> set[int]:
        return set(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def write(self, path: Path) -> dict[str, Any]:
        self.tokenizer.save(str(path / "tokenizer.json"), pretty=False)
        save_array(path / "document_frequency.npy", self.document_frequency)
        return {
            "family": "inference-free",
            "options": asdict(self.options),
            "documents": self.num_docs,
            "terms": self.num_terms,
        }

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> InferenceFreeEncoder:
        try:
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise IndexFormatError(f"{path / 'tokenizer.json'} cannot be read ({error}); build it again.") from error
        document_frequency = open_array(path / "document_frequency.npy", "int64", description["terms"])
        return cls(
            tokenizer, InferenceFreeOptions(**description["options"]), document_frequency, description["documents"]
        )

    @classmethod
    def mini(cls) -> InferenceFreeEncoder:
        """The untrained default, with no document encoded yet."""
        return cls(Tokenizer.from_file(str(minilm_folder() / "tokenizer.json")))
