"""Learned sparse encoders: documents through a model, queries through the same one, another one, or none at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tokenizers import Tokenizer

from index.arm_segments import Encoded, Statistics
from index.arms import ArmStatistics
from index.building import spilled
from index.documents import Document
from index.errors import IndexFormatError, ModelError, WinnowError
from index.files import write_file
from index.options import InvertedIndexOptions, WeightImpacts
from index.vectors import SparseQuery, concatenate
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.options import NeuralOptions, check_choice
from retrieval.encoders.prompt_reps import side_of
from retrieval.encoders.protocol import folder_name
from retrieval.encoders.term_weights import CollectionIdf, TermWeights
from retrieval.encoders.tokens import special_terms
from retrieval.encoders.weighted_terms import FixedVocabulary
from retrieval.queries import checked_text

DOCUMENTS_TOGETHER = 64  # whose vectors came with them

QuerySide = NeuralSide | TermWeights | CollectionIdf


class LearnedSparseEncoder:
    """Terms are the tokens of a model's vocabulary, numbered alike in every segment."""

    kind: Literal["sparse", "dense"] = "sparse"
    needs_vectors = False

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        num_terms: int,
        document: NeuralSide,
        query: QuerySide,
        impacts: WeightImpacts = "u8",
    ):
        """impacts  how weights are stored, see InvertedIndexOptions"""
        check_choice("impacts", impacts, get_args(WeightImpacts))
        size = 1 + max(tokenizer.get_vocab().values(), default=-1)
        if size > num_terms:
            raise ModelError(
                f"the tokenizer of {name} numbers its tokens up to {size - 1}, the model has {num_terms} terms; they are of different models."
            )
        self.name, self.tokenizer, self.num_terms = name, tokenizer, num_terms
        self.document, self.query, self.impacts = document, query, impacts

    @property
    def arm(self) -> str:
        """The name as a folder may be called."""
        return folder_name(self.name)

    @cached_property
    def vocabulary(self) -> FixedVocabulary:
        """The tokens; the end of a word is also known as it is shown."""
        tokens = [self.tokenizer.id_to_token(number) or f"[{number}]" for number in range(self.num_terms)]
        return FixedVocabulary(tokens, {shown(token): number for number, token in enumerate(tokens)})

    @property
    def terms(self) -> Sequence[str]:
        return self.vocabulary.terms

    def check(self, document: Document) -> None:
        self.vocabulary.check(document, self.name)

    def numbers(self, terms: Sequence[str], arm: ArmStatistics) -> list[np.ndarray]:
        return [self.vocabulary.numbers(terms)] * arm.num_segments

    def encode_documents(self, documents: Iterable[Document]) -> Encoded:
        """The vectors lie in a temporary file: memory does not grow with the number of documents."""
        counts, given = TokenCounts(self.num_terms), False

        def batches() -> Iterator[SparseRows]:
            nonlocal given
            for is_given, run in groupby(documents, lambda document: document.vector is not None):
                if is_given:
                    given = True
                    yield from self.given(run, counts)
                else:
                    yield from self.document.encode(map(text_of, run), counts.add)

        with spilled(batches(), self.num_terms, None) as vectors:
            statistics = counts.statistics(len(vectors.indptr) - 1)
            options = InvertedIndexOptions(self.num_terms, self.impacts)
            return Encoded(vectors, options, statistics, given=given)

    def encode_texts(self, texts: Iterable[str]) -> SparseRows:
        """float32 rows, one for each text of a document, over the model's terms."""
        with spilled(self.document.encode(checked_texts("texts", texts)), self.num_terms, None) as vectors:
            return vectors

    def given(self, documents: Iterable[Document], counts: TokenCounts) -> Iterator[SparseRows]:
        """The vectors that came with documents."""
        while some := list(islice(documents, DOCUMENTS_TOGETHER)):
            counts.add(self.document.tokens.own(list(map(text_of, some))))
            yield self.vocabulary.rows(some)

    def statistics(self, documents: Iterable[Document], vectors: SparseRows, num_terms: int) -> Statistics:
        counts = TokenCounts(num_terms)
        counts.add(self.document.tokens.own(list(map(text_of, documents))))
        return counts.statistics(len(vectors.indptr) - 1)

    def encode_query(self, text: str, arm: ArmStatistics) -> list[SparseQuery]:
        if isinstance(self.query, NeuralSide):
            query = self.query.encode_one(text)
        else:
            query = self.query.of(self.query_tokens(text), arm)
        return [SparseQuery(*query)] * arm.num_segments

    def encode_queries(self, texts: Iterable[str]) -> SparseRows:
        """float32 rows, one for each query, over the model's terms.

        Raises WinnowError where the weights of a query depend on the collection that it searches.
        """
        texts = checked_texts("the queries", texts)
        if isinstance(self.query, NeuralSide):
            return concatenate(list(self.query.encode(texts)))
        if isinstance(self.query, CollectionIdf):
            raise WinnowError(
                f"{self.name} weighs the terms of a query by the collection that is searched; search with a Retriever, or give "
                "its arm to encode_query."
            )
        rows = [self.query.of(self.query_tokens(text), None) for text in texts]
        return concatenate([SparseRows(np.array([0, len(terms)]), terms, weights) for terms, weights in rows])

    def query_tokens(self, text: str) -> np.ndarray:
        """int64: the tokens of a query without a model; without tokens of its own it has none, whatever stands before it."""
        tokens = self.own_tokens(text)
        prefix = self.query.prefix if isinstance(self.query, TermWeights) else ""
        return self.own_tokens(prefix + text) if prefix and len(tokens) else tokens

    def own_tokens(self, text: str) -> np.ndarray:
        """int64: the text's own tokens."""
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def term(self, number: int, vocabulary: Vocabulary | None) -> str:
        return shown(self.tokenizer.id_to_token(number) or f"[{number}]")  # a row that fills the matrix up has no token

    def terms_in(self, text: str, vocabulary: Vocabulary | None) -> set[int]:
        return set(self.document.tokens.terms_in(text).tolist())

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, impacts: WeightImpacts | None = None, **options: Any
    ) -> LearnedSparseEncoder:
        """A model of docs/models.md, a checkpoint's folder, or its name on the hub, without documents.

        impacts, options  as `Retriever.from_pretrained` takes them

        Raises ModelError where it is no learned sparse encoder.
        """
        from retrieval.encoders.loading import load_encoder

        encoder = load_encoder(str(name), impacts, options)
        if not isinstance(encoder, cls):
            raise ModelError(f"{name} is no learned sparse encoder; give a model with weights, such as winnow-mini.")
        return encoder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that the SparseEncoder of sentence-transformers opens, see `sentence_transformers_writer`."""
        from retrieval.encoders.sentence_transformers_writer import write_model

        write_model(self, Path(folder))

    def write(self, path: Path) -> dict[str, Any]:
        """All that searching needs, but for a model that encodes queries: of it, where it is."""
        write_file(path / "tokenizer.json", self.tokenizer.to_str(pretty=False).encode())
        if isinstance(self.query, NeuralSide):
            query = {"kind": "model", **described(self.query)}
        else:
            query = self.query.write(path)
        return {
            "family": "learned",
            "name": self.name,
            "terms": self.num_terms,
            "impacts": self.impacts,
            "document": described(self.document),
            "query": query,
        }

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> LearnedSparseEncoder:
        tokenizer = read_stored_tokenizer(path)
        kind = description["query"]["kind"]
        query: QuerySide
        if kind == "model":
            query = neural_side(description["query"], tokenizer)
        elif kind == "table":
            query = TermWeights.read(path, description["query"])
        else:
            query = CollectionIdf(special_terms(tokenizer))
        document = neural_side(description["document"], tokenizer)
        return cls(description["name"], tokenizer, description["terms"], document, query, description["impacts"])


def checked_texts(name: str, texts: Iterable[str]) -> Iterator[str]:
    """The texts, each checked when it is taken. Raises WinnowError."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise WinnowError(f"{name} is {type(texts).__name__} {texts!r:.60}; it must be a list of strings.")
    return (checked_text("a text", text) for text in texts)


def text_of(document: Document) -> str:
    return document.searched_text


def shown(token: str) -> str:
    """A token as a person reads it: the end of a word as dictionaries write it, its beginning without the mark of a blank."""
    return f"-{token[2:]}" if token.startswith("##") else token.removeprefix("Ġ").removeprefix("▁") or token


def read_stored_tokenizer(path: Path, name: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer that `write` left. Raises IndexFormatError."""
    try:
        return Tokenizer.from_file(str(path / name))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise IndexFormatError(f"{path / name} cannot be read ({error}); build it again.") from error


def described(side: NeuralSide) -> dict[str, Any]:
    """What `neural_side` needs."""
    weights = None if side.own_weights is None else side.own_weights.tolist()
    return {"model": side.files.describe(), "options": asdict(side.options), "own_weights": weights}


def neural_side(description: dict[str, Any], tokenizer: Tokenizer) -> NeuralSide:
    weights = description["own_weights"]
    return side_of(
        ModelFiles.read(description["model"]),
        NeuralOptions(**description["options"]),
        tokenizer,
        None if weights is None else np.array(weights, np.float32),
    )


class TokenCounts:
    """Counts documents and, of each term, those whose own text holds it."""

    def __init__(self, num_terms: int):
        self.frequency = np.zeros(num_terms, np.int32)

    def add(self, texts: Iterable[np.ndarray]) -> None:
        for tokens in texts:
            self.frequency[np.unique(tokens)] += 1

    def statistics(self, num_docs: int) -> Statistics:
        return Statistics(num_docs, 0, self.frequency)
