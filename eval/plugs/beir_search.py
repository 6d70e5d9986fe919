"""Our systems in beir: `EvaluateRetrieval(BeirSearch("bm25+minilm"))`.

What beir does with the results differs from our own measures: it takes the mean over those queries that it gets results for, rounds
to five digits, and `evaluate` removes documents with the query's own id from the results that it is given, unless told
`ignore_identical_ids=False`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from beir.retrieval.search.base import BaseSearch

from eval.plugs.searcher import Searcher, System
from index.errors import CorpusError, WinnowError

Corpus = Mapping[str, Mapping[str, Any]]  # id -> {"title", "text"}
Results = dict[str, dict[str, float]]  # query id -> document id -> score


class BeirSearch(BaseSearch):
    """What beir asks of a retriever, from a system of ours.

    >>> search = BeirSearch("bm25", progress=False)
    >>> results = search.search({"a": {"title": "", "text": "green tea"}}, {"1": "tea", "2": "milk"}, top_k=1000)
    >>> {query: list(found) for query, found in results.items()}
    {'1': ['a'], '2': []}
    """

    def __init__(self, system: System, **options: Any):
        """system, options  as `Searcher` takes them"""
        self.searcher = Searcher(system, **options)
        self._digest: bytes | None = None  # of the corpus that is indexed

    def search(
        self, corpus: Corpus, queries: Mapping[str, str], top_k: int, score_function: str | None = None, **kwargs: Any
    ) -> Results:
        """The best `top_k` documents of each query, best first; fewer where fewer match. A corpus is indexed once, however often
        it is searched.

        score_function  beir's, of dense models; a system of ours scores as it does

        Raises CorpusError for what is no corpus, WinnowError for a query that is no text.
        """
        self._hold(corpus)
        return self.searcher.search(queries, top_k)

    def encode(
        self,
        corpus: Corpus,
        queries: Mapping[str, str],
        encode_output_path: str = "./embeddings/",
        overwrite: bool = False,
        query_filename: str = "queries.pkl",
        corpus_filename: str = "corpus.*.pkl",
        **kwargs: Any,
    ) -> None:
        """Index the corpus and write the index as one folder, called `corpus_filename` with 0 for its `*`, and the queries as JSON,
        {id: text}. Whatever beir's names end in, nothing is pickled.

        Raises WinnowError where one of them exists, unless `overwrite`: what it was made from cannot be told from its name.
        """
        folder = Path(encode_output_path)
        index, texts = folder / corpus_filename.replace("*", "0"), folder / query_filename
        there = [path for path in (index, texts) if path.exists()]
        if there and not overwrite:
            raise WinnowError(
                f"{there[0]} exists; give overwrite=True or another encode_output_path, or search it with search_from_files."
            )
        self._hold(corpus)
        folder.mkdir(parents=True, exist_ok=True)
        self.searcher.save(index)
        texts.write_text(json.dumps(dict(queries)), encoding="utf-8")

    def search_from_files(
        self, query_embeddings_file: str, corpus_embeddings_files: Sequence[str], top_k: int, **kwargs: Any
    ) -> Results:
        """As `search`, over what `encode` wrote. Raises WinnowError for anything else, and for more than one index."""
        if len(corpus_embeddings_files) != 1:
            raise WinnowError(
                f"there are {len(corpus_embeddings_files)} files of the corpus ({list(corpus_embeddings_files)!r:.100}); give the "
                "one folder that encode wrote."
            )
        try:
            queries = json.loads(Path(query_embeddings_file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WinnowError(f"{query_embeddings_file} holds no queries ({error!s:.80}); run encode first.") from error
        if not isinstance(queries, dict):
            raise WinnowError(f"{query_embeddings_file} holds {queries!r:.60}, no queries by id; run encode first.")
        return self.searcher.over(Path(corpus_embeddings_files[0])).search(queries, top_k)

    def _hold(self, corpus: Corpus) -> None:
        if not isinstance(corpus, Mapping):
            raise CorpusError(
                f"the corpus is {type(corpus).__name__} {corpus!r:.60}; give {{id: {{title, text}}}}, as beir's GenericDataLoader does."
            )
        digest = digest_of(corpus)
        if digest != self._digest:
            self._digest = None  # until it is indexed whole
            self.searcher.hold(corpus, records_of(corpus))
            self._digest = digest


def records_of(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """The documents; a title or text of None is an empty one, and other fields are no part of what is measured."""
    for doc_id, record in corpus.items():
        if not isinstance(record, Mapping):
            raise CorpusError(
                f"document {doc_id!r:.60} is {type(record).__name__} {record!r:.60}; give {{title, text}} for each document."
            )
        yield {"_id": doc_id, "title": record.get("title"), "text": record.get("text")}


def digest_of(corpus: Corpus) -> bytes:
    """Of ids, titles and texts, in order."""
    digest = blake2b(digest_size=16)
    for record in records_of(corpus):
        digest.update(repr(tuple(record.values())).encode())
    return digest.digest()
