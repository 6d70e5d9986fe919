"""Dense encoders: a text is one vector, of documents and of queries through the same model or two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from index.arm_segments import EncodedDense
from index.dense.options import DenseIndexOptions, Similarity
from index.documents import Document
from index.files import write_file
from index.scratch import GrowingArray
from retrieval.encoders.dense.side import DenseSide
from retrieval.encoders.learned import checked_texts, read_stored_tokenizer, text_of
from retrieval.encoders.protocol import folder_name
from retrieval.queries import checked_text

DENSE = "dense:"  # before a model's name: read it as a dense one


class DenseEncoder:
    """What a text says is where its vector points; texts whose vectors are similar say the like.

    >>> encoder = DenseEncoder.from_pretrained("minilm")
    >>> documents = encoder.encode_texts(["The moon pulls the sea.", "Bread needs yeast."])
    >>> documents.shape, int((documents @ encoder.encode_query("why is there a tide?")).argmax())
    ((2, 384), 0)
    """

    kind: Literal["sparse", "dense"] = "dense"
    needs_vectors = False
    terms = None

    def __init__(
        self, name: str, document: DenseSide, query: DenseSide, index: DenseIndexOptions, *, normalize: bool = False
    ):
        """
        index      how vectors are compared and found; its dimension may be less than the sides give: what comes after is cut off
        normalize  whether vectors get length 1 here
        """
        self.name, self.document, self.query, self.index, self.normalize = name, document, query, index, normalize

    @property
    def arm(self) -> str:
        """The name as a folder may be called; other than that of a sparse encoder of the same model, where there can be one."""
        own = folder_name(self.name.removeprefix(DENSE))
        return f"{own}-dense" if self.name.startswith(DENSE) else own

    @property
    def dimension(self) -> int:
        return self.index.dimension

    @property
    def similarity(self) -> Similarity:
        return self.index.similarity

    def check(self, document: Document) -> None:
        """Any document will do: weights of terms that come with it are for another arm."""

    def encode_documents(self, documents: Iterable[Document]) -> EncodedDense:
        """The vectors lie in a temporary file: memory does not grow with the number of documents.

        A document without tokens of its own has no vector, and no query finds it.
        """
        vectors, without, first = GrowingArray("float32"), GrowingArray("int32"), 0
        lengths: list[int] = []

        def seen(own: list[np.ndarray]) -> None:
            lengths[:] = [len(tokens) for tokens in own]

        for rows in self.document.encode(map(text_of, documents), seen):
            found = self.finished(rows)
            found[np.array(lengths) == 0] = 0
            without.append(first + np.flatnonzero(~found.any(axis=1)))
            vectors.append(found)
            first += len(found)
        return EncodedDense(vectors.mapped().reshape(-1, self.dimension), self.index, without.mapped())

    def encode_texts(self, texts: Iterable[str]) -> np.ndarray:
        """float32 [texts, dimension]: the vectors of documents with these texts; of an empty one that of its special tokens."""
        return self.together(self.document.encode(checked_texts("texts", texts)))

    def encode_queries(self, texts: Iterable[str]) -> np.ndarray:
        """float32 [texts, dimension]: the vectors of queries, each as `encode_query` gives it."""
        lengths: list[int] = []
        rows = self.query.encode(
            checked_texts("the queries", texts), lambda own: lengths.extend(len(tokens) for tokens in own)
        )
        found = self.together(rows)
        found[np.array(lengths, np.int64) == 0] = 0
        return found

    def encode_query(self, text: str) -> np.ndarray:
        """float32 [dimension]; zeros, with which nothing is found, for a query without tokens of its own."""
        found = self.query.encode_one(checked_text("the query", text))
        return np.zeros(self.dimension, np.float32) if found is None else self.finished(found[None])[0]

    def together(self, rows: Iterator[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.empty((0, self.dimension), np.float32), *map(self.finished, rows)])

    def finished(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [texts, dimension] of what a side gives: truncated, and of length 1 where that is asked for."""
        vectors = vectors[:, : self.dimension]
        if self.normalize:
            lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
            vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
        return vectors

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> DenseEncoder:
        """A model of docs/models.md, a checkpoint's folder, or its name on the hub, without documents.

        options  as `Retriever.from_pretrained` takes them

        Raises ModelError where it is no dense encoder.
        """
        from retrieval.encoders.dense.checkpoints import load_dense

        return load_dense(str(name), None, options)

    def write(self, path: Path) -> dict[str, Any]:
        """All that an index needs but the models: of them, where they are, and what their weights must be."""
        tokenizers = {side: self.tokenizer_of(side) for side in ("document", "query")}
        write_file(path / "tokenizer.json", tokenizers["document"].encode())
        is_shared = tokenizers["document"] == tokenizers["query"]
        if not is_shared:
            write_file(path / "query_tokenizer.json", tokenizers["query"].encode())
        return {
            "family": "dense",
            "name": self.name,
            "index": asdict(self.index),
            "normalize": self.normalize,
            "document": self.document.describe(),
            "query": {**self.query.describe(), "own_tokenizer": not is_shared},
        }

    def tokenizer_of(self, side: str) -> str:
        written: str = getattr(self, side).tokens.tokenizer.to_str(pretty=False)
        return written

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> DenseEncoder:
        """No weights are loaded before a text is encoded. Raises IndexFormatError."""
        query = description["query"]
        tokenizer = read_stored_tokenizer(path)
        own = read_stored_tokenizer(path, "query_tokenizer.json") if query["own_tokenizer"] else tokenizer
        return cls(
            description["name"],
            DenseSide.read(description["document"], tokenizer),
            DenseSide.read(query, own),
            DenseIndexOptions(**description["index"]),
            normalize=description["normalize"],
        )
