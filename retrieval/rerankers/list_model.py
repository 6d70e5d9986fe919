"""A decoder that reads a query and a list of documents: what rerankers by attention share.

Prompt, tokenizer, model, and the states of documents that were computed before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch

from index.errors import ModelError, WinnowError
from retrieval.encoders.model_files import ModelFiles, brief
from retrieval.encoders.model_reading import quiet
from retrieval.encoders.options import Dtype, check_choice
from retrieval.rerankers.block_model import BlockModel
from retrieval.rerankers.block_pass import Prompt, batches, num_tokens
from retrieval.rerankers.document_cache import DocumentCache
from retrieval.rerankers.document_states import DocumentStates
from retrieval.rerankers.prompt import PromptReader
from retrieval.rerankers.protocol import Rankable, Ranked, checked_top_k, lists_to_rank
from retrieval.rerankers.settings import BlockRankSettings, load_settings

ONE_TOKEN = np.zeros(1, np.int64)
LIST_BYTES = 4 << 30  # of known states that one list may have in memory; documents beyond are computed with the query


class ReadList(NamedTuple):
    """Documents as the model reads them for a query."""

    instruction: np.ndarray  # int64
    documents: Sequence[np.ndarray]  # int64
    states: Mapping[int, DocumentStates]  # of documents that were computed before

    @property
    def starts(self) -> torch.Tensor:
        """int64 [documents + 1]: where each begins, counted in tokens of documents."""
        return torch.tensor([0, *np.cumsum([len(ids) for ids in self.documents])], dtype=torch.int64)


class ListModel:
    """Lists to passes of a model.

    cache  keeps the states of documents from query to query; needs a prompt whose instruction has no query
    """

    def __init__(
        self,
        model: BlockModel,
        reader: PromptReader,
        files: ModelFiles,
        num_layers: int,
        cache: DocumentCache | None = None,
    ):
        """Raises ModelError for a cache with a prompt that has the query in its instruction."""
        self.model, self.reader, self.settings, self.num_layers = model, reader, reader.settings, num_layers
        self.cache, self.folder = cache, files.folder
        self.num_read = self.num_cut = 0  # documents so far, and those that were longer than a block may be
        self.instruction: DocumentStates | None = None  # of a prompt that has one for all queries
        if cache is not None:
            if not self.settings.is_query_free:
                raise ModelError(
                    f"the instruction of {model.name} has the query in it, so a document's states serve one query only; leave the cache out, "
                    "or give query_free=True (and train with it)."
                )
            cache.bound_to(
                f"{num_layers} layers in {str(model.model.dtype).removeprefix('torch.')}, model {files.found_fingerprint[:20]}, prompt "
                f"{reader.fingerprint[:20]}"
            )

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        depth: Callable[[BlockRankSettings, int], int],
        cache: DocumentCache | str | Path | None,
        query_free: bool,
        device: str | None,
        dtype: str,
        revision: str | None,
        trust_remote_code: bool,
        options: Mapping[str, Any],
    ) -> ListModel:
        """From a checkpoint.

        depth    of the settings and the number of layers: how many of these run
        options  fields of BlockRankSettings, instead of what the checkpoint or the registry says

        Raises ModelError for what is no decoder, and what `BlockModel.checked` refuses.
        """
        for name, value in (("query_free", query_free), ("trust_remote_code", trust_remote_code)):
            if not isinstance(value, bool):
                raise WinnowError(f"{name} is {value!r:.40}; it must be True or False.")
        check_choice("dtype", dtype, get_args(Dtype))
        files = ModelFiles(str(name_or_folder), revision, trust_remote_code)
        total = num_layers_of(files)
        settings = load_settings(files.name, files.folder, total, options, query_free=query_free)
        reader = PromptReader(transformers_tokenizer(files), settings)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        num_layers = depth(settings, total)
        model = BlockModel.load(files, num_layers, dtype, device)
        return cls(model, reader, files, num_layers, DocumentCache.of(cache))

    def read(self, query: str, texts: Sequence[str]) -> ReadList:
        """Tokens, and what the cache knows of them; documents that it does not know are computed for it, as far as it has room."""
        instruction = self.reader.instruction(None if self.settings.is_query_free else query)
        found = self.reader.documents(texts, tell=self.num_cut == 0)  # the first list with such documents is told
        self.num_read += len(found)
        self.num_cut += sum(document.num_cut > 0 for document in found)
        documents = [document.ids for document in found]
        if self.cache is None:
            return ReadList(instruction, documents, {})
        return ReadList(instruction, documents, self.known(instruction, documents))

    def known(self, instruction: np.ndarray, documents: Sequence[np.ndarray]) -> dict[int, DocumentStates]:
        """From the cache, or into it, as far as there is room for a list."""
        assert self.cache is not None
        dtype, device = self.model.model.dtype, self.model.model.device
        states: dict[int, DocumentStates] = {}
        if self.instruction is None:
            self.instruction = self.computed(instruction, [ONE_TOKEN])[0]
        room = LIST_BYTES
        missing: dict[bytes, int] = {}  # equal documents are computed once
        for place, ids in enumerate(documents):
            room -= len(ids) * self.bytes_a_token
            if room < 0:
                break
            if (found := self.cache.get(ids, dtype, device)) is not None:
                states[place] = found
            else:
                missing.setdefault(ids.tobytes(), place)
        lengths = {place: len(documents[place]) for place in missing.values()}
        for some in batches(lengths, self.model.tokens_together) if missing else ():
            computed = self.computed(self.instruction, [documents[place] for place in some])[1:]
            for place, found in zip(some, computed, strict=True):
                states[place] = self.cache.put(documents[place], found)
        equal = {place: missing.get(ids.tobytes()) for place, ids in enumerate(documents) if place not in states}
        return states | {place: states[first] for place, first in equal.items() if first is not None}

    @property
    def bytes_a_token(self) -> int:
        """Of states, in the dtype of the model."""
        assert self.instruction is not None
        sides = (self.instruction.keys, self.instruction.values)
        return sum(side[:, 0].numel() * side.element_size() for side in sides)

    def computed(
        self, instruction: np.ndarray | DocumentStates, documents: Sequence[np.ndarray]
    ) -> list[DocumentStates]:
        """Of the instruction and of documents, without a query; of an instruction that is known, that."""
        keeper = Keeper(self.num_layers - 1)
        last_position = self.settings.position_of_last(num_tokens(instruction))
        self.model.infer(Prompt(instruction, documents, ONE_TOKEN, last_position), keeper, keep=keeper.keep)
        found = [keeper.states(block) for block in sorted(keeper.kept)]
        return found if isinstance(instruction, np.ndarray) else [instruction, *found]

    def prompt(self, read: ReadList, last: np.ndarray) -> Prompt:
        """With the last block that asks."""
        documents = [read.states.get(place, ids) for place, ids in enumerate(read.documents)]
        instruction = self.instruction if self.cache is not None and self.instruction is not None else read.instruction
        return Prompt(instruction, documents, last, self.settings.position_of_last(len(read.instruction)))


class ListReranker(ABC):
    """What rerankers by attention do alike. A list goes through the model alone, so that its scores do not depend on other lists."""

    lists: ListModel

    @abstractmethod
    def ranked(self, query: str, texts: Sequence[str], top_k: int | None) -> list[Ranked]:
        """Of one text or more, best first."""

    def rank(self, query: str, documents: Sequence[Rankable], top_k: int | None = None) -> list[Ranked]:
        """See `protocol.Reranker`. Documents longer than the prompt allows are cut: told once, counted in `lists.num_cut`."""
        return self.rank_batch([query], [documents], top_k)[0]

    def rank_batch(
        self, queries: Sequence[str], documents: Sequence[Sequence[Rankable]], top_k: int | None = None
    ) -> list[list[Ranked]]:
        """`rank` for each query with its list."""
        top_k = checked_top_k(top_k)
        return [self.ranked(query, texts, top_k) if texts else [] for query, texts in lists_to_rank(queries, documents)]


class Keeper:
    """Collects the states of the blocks of a pass."""

    needs_sums = False

    def __init__(self, last_layer: int):
        self.last_layer = last_layer
        self.kept: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def keep(self, layer: int, block: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.kept.setdefault(block, []).append((keys.clone(), values.clone()))

    def see(self, *_: Any) -> None:
        """Nothing of a last block."""

    def states(self, block: int) -> DocumentStates:
        keys, values = zip(*self.kept[block], strict=True)
        return DocumentStates(torch.stack(keys), torch.stack(values)[:-1])


def num_layers_of(files: ModelFiles) -> int:
    """Raises ModelError for what does not look like a decoder."""
    config = files.config
    inner = config.get("text_config")
    found = config.get("num_hidden_layers", inner.get("num_hidden_layers") if isinstance(inner, dict) else None)
    found = config.get("n_layer") if found is None else found
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ModelError(
            f"{files.name} says num_hidden_layers is {found!r:.40}; a decoder such as Mistral, Llama or Qwen is needed, so give one."
        )
    return found


def transformers_tokenizer(files: ModelFiles) -> Any:
    """The tokenizer of a checkpoint, with its chat template. Raises ModelError."""
    from transformers import AutoTokenizer

    within = {"gguf_file": files.gguf} if files.gguf is not None else {}
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(files.folder, trust_remote_code=files.trust_remote_code, **within)
    except Exception as error:  # whatever the library meets in the files
        raise ModelError(
            f"{files.folder} has no tokenizer that can be read ({brief(error)}); it needs tokenizer.json and tokenizer_config.json."
        ) from error
