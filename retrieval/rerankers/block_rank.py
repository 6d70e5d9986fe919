"""BlockRank: a decoder reads all candidates at once, and its attention says which are relevant.

"Scalable In-context Ranking with Generative Models", arXiv:2510.05396. Documents see the instruction and themselves, the last block sees
all; a document's score is the share of the last block's attention at a middle layer (`kernels.document_mass`). Only the layers up to that
one run, and of that one only queries and keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.errors import WinnowError, WinnowWarning
from kernels.document_mass import log_document_mass
from retrieval.encoders.options import Dtype
from retrieval.rerankers.calibration import FILE, PlattScaling
from retrieval.rerankers.document_cache import DocumentCache
from retrieval.rerankers.list_model import ListModel, ListReranker
from retrieval.rerankers.protocol import Rankable, Ranked, best_first

CONTENT_FREE = "N/A"


class BlockRankReranker(ListReranker):
    """Reranks a list with one pass of a decoder.

    A score is ln(mass * documents): how much attention a document gets, compared with the average one of its list, which is at 0. With
    `content_free` the same of a query without content is taken from it, which takes out what a document gets for any query; with
    `scaling` there is a probability too.
    """

    def __init__(
        self, lists: ListModel, name: str, *, content_free: str | None = None, scaling: PlattScaling | None = None
    ):
        if not isinstance(content_free, str | None):
            raise WinnowError(f"content_free is {content_free!r:.60}; give a query without content, as 'N/A', or None.")
        self.lists, self.name, self.content_free, self.scaling = lists, name, content_free, scaling

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        cache: DocumentCache | str | Path | None = None,
        query_free: bool = False,
        content_free: str | None = None,
        device: str | None = None,
        dtype: Dtype = "float32",
        revision: str | None = None,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> BlockRankReranker:
        """A decoder's folder (safetensors or GGUF) or its name on the hub.

        cache         keeps documents' keys and values from query to query, or a folder for one; for prompts whose instruction has no query
        query_free    such a prompt, where the checkpoint was not trained with one of its own
        content_free  a query without content, as "N/A", whose scores are taken from all scores; costs a second pass
        device        as PyTorch calls it; None: a CUDA device where there is one
        dtype         what the model computes in
        settings      fields of `BlockRankSettings` (score_layer=20, document_tokens=160, ...) instead of those of blockrank.json beside
                      the checkpoint, of the published model, or of the defaults

        Raises ModelError for what cannot be had, is no decoder, or has an attention that blocks cannot be exact for.
        """
        lists = ListModel.load(
            name_or_folder,
            depth=lambda own, total: own.score_layer + 1,
            cache=cache,
            query_free=query_free,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            options=settings,
        )
        reranker = cls(lists, f"blockrank:{name_or_folder}", content_free=content_free)
        reranker.scaling = PlattScaling.open(lists.folder)
        if reranker.scaling is not None and reranker.scaling.of not in ("", reranker.scored_by):
            warnings.warn(
                f"{lists.folder / FILE} was fitted to scores of other settings, so there are no probabilities; calibrate again.",
                WinnowWarning,
                stacklevel=2,
            )
            reranker.scaling = None
        return reranker

    @property
    def scored_by(self) -> str:
        """What tells these scores from those of other settings."""
        told = asdict(self.lists.settings), self.content_free
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]

    def ranked(self, query: str, texts: Sequence[str], top_k: int | None) -> list[Ranked]:
        log_mass = self.log_masses(query, texts)
        scores = log_mass + math.log(len(texts))
        if self.content_free is not None:
            scores -= self.log_masses(self.content_free, texts) + math.log(len(texts))
        return [
            Ranked(
                i, float(scores[i]), math.exp(log_mass[i]), None if self.scaling is None else self.scaling(scores[i])
            )
            for i in best_first(scores, top_k)
        ]

    def log_masses(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """float64 [texts]: logarithms of the shares of attention, which add up to 1."""
        read = self.lists.read(query, texts)
        last = self.lists.reader.last(query)
        watch = MassWatch(read.starts, self.lists.settings.score_layer, self.lists.reader.signal(last))
        self.lists.model.infer(self.lists.prompt(read, last), watch)
        assert watch.log_mass is not None
        found: np.ndarray = watch.log_mass.double().cpu().numpy()
        return found

    def calibrate(
        self,
        queries: Mapping[str, str],
        documents: Mapping[str, Sequence[tuple[Rankable, bool]]],
    ) -> PlattScaling:
        """Fit probabilities to judged lists, and give them from now on.

        queries    query id -> text
        documents  query id -> documents of its list, each with whether it is relevant

        Raises WinnowError unless some are relevant and some are not.
        """
        scores: list[float] = []
        relevant: list[bool] = []
        if not isinstance(queries, Mapping) or not isinstance(documents, Mapping):
            raise WinnowError("queries and documents must be mappings by query id; give dictionaries.")
        for query_id, query in queries.items():
            judged = list(documents.get(query_id, ()))
            if any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in judged):
                raise WinnowError(
                    f"the documents of query {query_id!r:.40} are {judged!r:.60}; give pairs of a document and whether it is relevant."
                )
            for ranked in self.rank(query, [document for document, _ in judged]):
                scores.append(ranked.score)
                relevant.append(bool(judged[ranked.index][1]))
        self.scaling = PlattScaling.fit(scores, relevant, self.scored_by)
        return self.scaling


class MassWatch:
    """Reads the score layer.

    starts      int64 [documents + 1]: tokens of the documents
    rows        int64: of the signal tokens in the last block
    last_layer  where the pass ends; None: with the score layer
    """

    needs_sums = False

    def __init__(self, starts: torch.Tensor, score_layer: int, rows: np.ndarray, last_layer: int | None = None):
        self.starts, self.score_layer, self.rows = starts, score_layer, rows
        self.last_layer = score_layer if last_layer is None else last_layer
        self.log_mass: torch.Tensor | None = None

    def see(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, lse: Any, scale: float) -> None:
        """Where a layer is computed again for its gradients, the masses are too; the first ones are those that were used."""
        if layer != self.score_layer:
            return
        with torch.autocast(queries.device.type, enabled=False):  # a mass has more digits than bfloat16
            log_mass = log_document_mass(
                queries[torch.from_numpy(self.rows).to(queries.device)], keys, self.starts, scale
            )
        if self.log_mass is None:
            self.log_mass = log_mass
