"""Text in, ranked documents out, of a collection that lies in shards: `ShardedRetriever`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from index.dense.search import DenseSearch
from index.effort import EXACT, Effort
from index.errors import WinnowError
from index.snapshot import Snapshot
from index.storage import Commit, read_current
from index.vectors import checked_count
from retrieval.arm_search import Trying
from retrieval.conditions import Condition
from retrieval.fusion import Fusion
from retrieval.hits import Hits
from retrieval.hybrid import QUERIES_TOGETHER, checked_fusion
from retrieval.opened import KIND, Opened
from retrieval.queries import Query, by_arm, each_query
from retrieval.rerankers.protocol import Reranker
from retrieval.rerankers.stage import Stage
from retrieval.sharded.collection import Collection, Patience, Search, Wanted
from retrieval.sharded.shard import ShardSource
from retrieval.sharded.shards import LocalShards, Shards
from retrieval.side_by_side import checked_deadline

Engine = Literal["ray", "local"]
START_SECONDS = 60.0  # in which every shard must have opened


class ShardedRetriever:
    """Searches several index folders, or runs of segments of one, as one collection.

    Hits, scores and order are those of an index that holds the documents of all shards, one shard after another: statistics
    are of the whole collection, arms are fused after their shards are merged. It reads the commits that it opened.

    >>> import tempfile
    >>> from retrieval import Retriever
    >>> folders = [tempfile.mkdtemp() for _ in range(2)]
    >>> for folder, text in zip(folders, ["green tea", "black tea, more tea"]):
    ...     Retriever.from_pretrained("bm25").index([{"_id": text[:5], "text": text}], progress=False).save_pretrained(folder)
    >>> with ShardedRetriever.from_folders(folders, engine="local") as retriever:
    ...     [(hit.doc_id, hit.rank) for hit in retriever.search("tea")]
    [('black', 1), ('green', 2)]
    """

    def __init__(self, shards: Shards, model: Opened, start_seconds: float = START_SECONDS):
        """
        shards         in the order of their documents
        model          encoders, fusion and reranker
        start_seconds  in which every shard must have opened

        Raises DeadlineError, what a shard failed with, and WinnowError where shards are of different models.
        """
        self._shards, self._model = shards, model
        try:
            self._collection = Collection(shards, model.encoders, time.monotonic() + start_seconds)
        except BaseException:
            shards.close()
            raise

    @classmethod
    def from_folders(
        cls,
        folders: str | Path | Sequence[str | Path],
        *,
        shards: int | None = None,
        engine: Engine = "ray",
        address: str | None = None,
        replicas: int = 1,
        start_seconds: float = START_SECONDS,
    ) -> Self:
        """Shards that `Retriever.save_pretrained` or `winnow index` wrote; fusion and reranker are the first folder's.

        folders   one a shard, in the order of their documents
        shards    of one folder alone: cut its segments into so many runs of like size
        engine    "ray": each shard an actor, which maps its files where it runs, so every machine must see them under the same path;
                  "local": threads of this process
        address   of a running Ray cluster, "host:port"; None: RAY_ADDRESS, or Ray is started on this machine
        replicas  actors for each shard: when one dies or is slow another answers

        Raises IndexFormatError for a folder that cannot be opened and WinnowError for a cluster that cannot be reached or has no room.
        """
        if engine not in get_args(Engine):
            raise WinnowError(f"engine is {engine!r:.60}; it must be ray or local.")
        sources, model = opened_sources(folders, shards)
        if engine == "local":
            if address is not None or replicas != 1:
                raise WinnowError('address and replicas are of engine ray; give engine="ray", or leave them out.')
            return cls(LocalShards(sources), model, start_seconds)
        from retrieval.sharded.ray_shards import RayShards

        return cls(RayShards(sources, address=address, replicas=replicas), model, start_seconds)

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        filter: Mapping[str, Any] | Condition | None = None,
        fusion: Fusion | None = None,
        effort: Effort = EXACT,
        dense: DenseSearch | None = None,
        deadline: float | None = None,
        partial: bool = False,
        rerank: Reranker | Literal[False] | None = None,
        depth: int | None = None,
        stored: bool = True,
    ) -> Hits:
        """The best k documents of all shards, as `Retriever.search` gives them.

        effort    of each shard: a budget is every shard's own
        deadline  seconds in which all shards must have answered and sent the documents of the hits; reranking comes after
        partial   goes on without a shard that is late or fails: `missing` of the hits names it ("shard 2"), and its documents are
                  not among them. Otherwise that is an error

        Raises as `Retriever.search` does, and WinnowError where a shard has failed.
        """
        options = {"filter": filter, "fusion": fusion, "effort": effort, "dense": dense, "deadline": deadline}
        more = {"partial": partial, "rerank": rerank, "depth": depth, "stored": stored}
        return self._searched([query], k, 1, **options, **more)[0]

    def search_batch(
        self,
        queries: Iterable[Query],
        k: int = 10,
        *,
        filter: Mapping[str, Any] | Condition | None = None,
        fusion: Fusion | None = None,
        effort: Effort = EXACT,
        dense: DenseSearch | None = None,
        threads: int = 1,
        deadline: float | None = None,
        partial: bool = False,
        rerank: Reranker | Literal[False] | None = None,
        depth: int | None = None,
        stored: bool = True,
    ) -> list[Hits]:
        """`search` for each query, in order, with a request for many queries to each shard.

        threads   of each shard
        deadline  seconds for all queries; a shard that is lost over one of them is missing for those after it, and for those asked with it
        """
        options = {"filter": filter, "fusion": fusion, "effort": effort, "dense": dense, "deadline": deadline}
        more = {"partial": partial, "rerank": rerank, "depth": depth, "stored": stored}
        return self._searched(each_query(queries), k, threads, **options, **more)

    def _searched(self, queries: Sequence[Query], k: int, threads: int, **asked: Any) -> list[Hits]:
        until = None if checked_deadline(asked["deadline"]) is None else time.monotonic() + asked["deadline"]
        fusion = checked_fusion(self._model.fusion if asked["fusion"] is None else asked["fusion"])
        arms = list(fusion.weights_of(list(self._collection.encoders)))
        stage = self._model.stage(k, asked["stored"], asked["rerank"], asked["depth"])
        stage.check(queries)
        if self._collection.num_docs == 0:
            raise WinnowError("there are no documents to search; give shards that hold some.")
        wanted_k, threads = checked_count("k", stage.wanted), checked_count("threads", threads)
        deep = wanted_k if len(arms) == 1 else fusion.depth_for(wanted_k)
        condition = None if asked["filter"] is None else Condition.of(asked["filter"])
        wanted = Wanted(arms, deep, condition, Trying(asked["effort"], asked["dense"]), threads)
        search, hits = Search(self._collection, Patience(until, asked["partial"])), list[Hits]()
        for first in range(0, len(queries), QUERIES_TOGETHER):
            some = queries[first : first + QUERIES_TOGETHER]
            search.run([by_arm(query, arms) for query in some], wanted)
            hits += answered(search, some, stage, fusion, wanted_k, deep)
        return hits

    def __len__(self) -> int:
        """The number of documents in all shards."""
        return self._collection.num_docs

    @property
    def num_shards(self) -> int:
        return len(self._collection.descriptions)

    @property
    def model(self) -> str:
        """The names of the encoders, with `+` between them."""
        return self._model.model

    def close(self) -> None:
        """Let go of the shards; actors end."""
        self._shards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def answered(search: Search, queries: Sequence[Query], stage: Stage, fusion: Fusion, k: int, depth: int) -> list[Hits]:
    """The hits of each query; where a shard is lost over its documents, those of the shards that are left."""
    while True:
        found = search.found(fusion, k, depth)
        if search.fetch(
            [doc for one in found for doc in one.docs.tolist()], stage.stored or stage.reranker is not None
        ):
            return list(stage.hits(search, queries, found))


def opened_sources(folders: str | Path | Sequence[str | Path], shards: int | None) -> tuple[list[ShardSource], Opened]:
    """(where the shards are, what the first folder says of the model). Raises WinnowError and IndexFormatError."""
    each = [folders] if isinstance(folders, str | Path) else list(folders)
    if not each:
        raise WinnowError("no folder was given; give at least one that holds an index.")
    paths = [str(Path(folder).absolute()) for folder in each]
    if len(paths) > 1 and shards is not None:
        raise WinnowError(
            f"shards is {shards!r}, but {len(paths)} folders are given; each is one shard, so leave shards out."
        )

    def read(commit: Commit) -> tuple[Opened, list[int]]:
        snapshot = Snapshot.read(commit)
        assert snapshot.model is not None
        return Opened.read_model(snapshot.model), [one.live.num_docs for one in snapshot.segments]

    model, sizes = read_current(paths[0], KIND, read)
    if shards is None:
        return [ShardSource(path) for path in paths], model
    return [ShardSource(paths[0], first, end) for first, end in runs(sizes, checked_count("shards", shards))], model


def runs(sizes: Sequence[int], count: int) -> list[tuple[int, int]]:
    """`count` runs of neighbours, [first, end) of each, none empty and of like size. Raises WinnowError where there are fewer sizes.

    >>> runs([5, 1, 1, 1, 4], 3)
    [(0, 1), (1, 4), (4, 5)]
    """
    if count > len(sizes):
        raise WinnowError(
            f"the index has {len(sizes)} segments, and {count} shards were asked for; ask for at most {len(sizes)}, or index into more folders."
        )
    found, first, left = [], 0, sum(sizes)
    for still in range(count, 0, -1):
        end, taken = first + 1, sizes[first]
        # up to the size that is nearest an equal share of what is left, and so that each later run has a segment
        while end < len(sizes) - still + 1 and (still == 1 or taken + sizes[end] / 2 <= left / still):
            taken, end = taken + sizes[end], end + 1
        found.append((first, end))
        first, left = end, left - taken
    return found
