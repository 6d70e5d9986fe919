"""Cross-encoders: a classification model reads the query and one document together and gives one score (Nogueira and Cho, arXiv:1901.04085)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from index.errors import ModelError
from retrieval.encoders.model_files import ModelFiles, brief, checkpoint_folder
from retrieval.encoders.options import LONGEST_TEXT, Dtype, check_choice, check_whole
from retrieval.encoders.plain_checkpoints import count_positions, tokenizer_limit
from retrieval.encoders.sentence_transformers import listed_modules, shared_config, transformer_options
from retrieval.encoders.text_stream import TextStream, TruncationWarning
from retrieval.rerankers.classifier_model import ClassifierModel, PairTokens
from retrieval.rerankers.protocol import (
    ListToRank,
    Rankable,
    Ranked,
    best_first,
    checked_top_k,
    list_to_rank,
    lists_to_rank,
)

Activation = Literal["identity", "sigmoid"]
ACTIVATIONS: dict[str, Activation] = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
}  # by the last part of what sentence-transformers calls them
DEFAULT_LENGTH = 512  # tokens, where neither tokenizer nor model has a limit
TOKENIZED_TOGETHER = 4096  # pairs; their ids are in memory at a time


class PairReader:
    """Queries and documents to what a cross-encoder reads: both with the special tokens of its tokenizer.

    Of a pair that is too long, tokens of the longer text are cut first ("longest_first", as these models were trained): a query
    loses some only where it takes more than half of the room.
    """

    def __init__(self, tokenizer: Any, max_length: int):
        """tokenizer  of transformers, with a fast backend"""
        self.backend, self.has_types = tokenizer.backend_tokenizer, "token_type_ids" in tokenizer.model_input_names
        self.backend.no_padding()
        if max_length <= self.backend.num_special_tokens_to_add(True):
            raise ModelError(f"max_length is {max_length}; special tokens alone take that much, so give more.")
        self.backend.enable_truncation(max_length, strategy="longest_first")

    def of(self, pairs: Sequence[tuple[str, str]]) -> list[PairTokens]:
        return [
            PairTokens(
                np.array(one.ids, np.int64),
                np.array(one.type_ids, np.int64) if self.has_types else None,
                bool(one.overflowing),
            )
            for one in self.backend.encode_batch(list(pairs))
        ]


class CrossEncoderReranker(TextStream):
    """Scores each document with the query by itself, so scores do not depend on the list.

    A score is the logit of relevance, or with `activation="sigmoid"` a number from 0 to 1; the order is that of the logits either way.
    """

    model: ClassifierModel

    def __init__(self, name: str, model: ClassifierModel, reader: PairReader, max_length: int, activation: Activation):
        self.name, self.model, self.reader = name, model, reader
        self.max_length, self.activation = max_length, activation

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        device: str | None = None,
        dtype: Dtype = "float32",
        max_length: int | None = None,
        activation: Activation | None = None,
        tokens_a_batch: int | None = None,
        revision: str | None = None,
    ) -> CrossEncoderReranker:
        """A checkpoint with a head for one score, or for two classes of which the second means relevant: then the score is by how much
        its logit is ahead.

        device          as PyTorch calls it (None: a CUDA device where there is one)
        max_length      tokens of query and document together; what is more is cut (None: what tokenizer and model have room for)
        activation      "identity" or "sigmoid" (None: as files of sentence-transformers say, else identity)
        tokens_a_batch  None: 2,048 on a processor, 65,536 on a GPU; halved where memory runs out
        revision        of a name on the hub

        Raises ModelError for a checkpoint without such a head, and WinnowError for options that are none.
        """
        check_choice("dtype", dtype, ("float32", "bfloat16", "float16"))
        check_choice("activation", activation, (None, "identity", "sigmoid"))
        for option, value in (("max_length", max_length), ("tokens_a_batch", tokens_a_batch)):
            if value is not None:
                check_whole(option, value, LONGEST_TEXT)
        name = str(name_or_folder)
        root = checkpoint_folder(name, revision)
        files = ModelFiles(name, revision, part=part_of(name, root))
        tokenizer = read_pair_tokenizer(files.folder)
        most = longest_pair(files, tokenizer.backend_tokenizer)
        positions = count_positions(files)
        if max_length is not None and positions is not None and max_length > positions:
            raise ModelError(
                f"max_length is {max_length}; {name} has positions for {positions} tokens, so give no more."
            )
        activation = activation or activation_of(files, root)
        model = ClassifierModel.load(files, dtype, device)
        found = cls(name, model, PairReader(tokenizer, max_length or most), max_length or most, activation)
        found.tokens_a_batch = tokens_a_batch
        return found

    def rank(self, query: str, documents: Sequence[Rankable], top_k: int | None = None) -> list[Ranked]:
        """See `Reranker`."""
        return self.ranked([list_to_rank(query, documents)], top_k)[0]

    def rank_batch(
        self, queries: Sequence[str], documents: Sequence[Sequence[Rankable]], top_k: int | None = None
    ) -> list[list[Ranked]]:
        """See `Reranker`."""
        return self.ranked(lists_to_rank(queries, documents), top_k)

    def ranked(self, lists: Sequence[ListToRank], top_k: int | None) -> list[list[Ranked]]:
        checked_top_k(top_k)
        logits = self.logits([(one.query, text) for one in lists for text in one.texts])
        ends = np.cumsum([0, *(len(one.texts) for one in lists)]).tolist()
        return [self.in_order(logits[a:b], top_k) for a, b in pairwise(ends)]

    def in_order(self, logits: np.ndarray, top_k: int | None) -> list[Ranked]:
        return [Ranked(index, self.activated(float(logits[index]))) for index in best_first(logits, top_k)]

    def activated(self, logit: float) -> float:
        if self.activation == "identity":
            return logit
        return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))

    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """float32 [pairs]. Warns of pairs that were cut."""
        found, num_cut = [np.zeros(0, np.float32)], 0
        for first in range(0, len(pairs), TOKENIZED_TOGETHER):
            tokens = self.reader.of(pairs[first : first + TOKENIZED_TOGETHER])
            num_cut += sum(one.is_cut for one in tokens)
            found.append(np.array(self.in_batches(tokens, self.model.logits, np.float32(0)), np.float32))
        if num_cut:
            warnings.warn(TruncationWarning(num_cut, len(pairs), self.max_length), stacklevel=4)
        return np.concatenate(found)


def part_of(name: str, folder: Path) -> str:
    """Where the transformers model lies in a folder of sentence-transformers. Raises ModelError for one that has more to it."""
    if not (folder / "modules.json").is_file():
        return ""
    modules = listed_modules(folder)
    if [kind for kind, _ in modules] != ["Transformer"]:
        raise ModelError(
            f"{name} has the modules {', '.join(kind for kind, _ in modules)}; a cross-encoder is one Transformer with a head."
        )
    prompt = shared_config(folder).get("default_prompt_name")
    if prompt is not None:
        raise ModelError(
            f"{name} puts its prompt {prompt!r:.40} before each text, which is not known here of cross-encoders; give a checkpoint without it."
        )
    return modules[0][1]


def read_pair_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer as transformers has it. Raises ModelError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what the library makes of no vocabulary
            raise ValueError("no word is in its vocabulary")
        assert tokenizer.backend_tokenizer is not None
        return tokenizer
    except Exception as error:  # whatever the library meets in the files
        raise ModelError(
            f"{folder} has no tokenizer that can be read ({brief(error)}); it needs tokenizer.json, or the vocabulary files "
            "of its architecture."
        ) from error


def longest_pair(files: ModelFiles, tokenizer: Tokenizer) -> int:
    """Tokens, by what sentence-transformers wrote, the tokenizer's own limit and the positions that the model has."""
    if next(files.folder.glob("sentence_*_config.json"), None) is not None:
        options = transformer_options(files, tokenizer, "document", "sequence-classification", is_usual=True)
        return int(options["max_length"])
    limits = [limit for limit in (tokenizer_limit(files.folder), count_positions(files)) if limit is not None]
    return min(limits, default=DEFAULT_LENGTH)


def activation_of(files: ModelFiles, root: Path) -> Activation:
    """What sentence-transformers wrote in the checkpoint; the plain logit where it wrote nothing. Raises ModelError."""
    within = files.config.get("sentence_transformers")
    written = shared_config(root).get("activation_fn")
    written = written or (within.get("activation_fn") if isinstance(within, dict) else None)
    written = written or files.config.get("sbert_ce_default_activation_function")
    if written is None:
        return "identity"
    found = ACTIVATIONS.get(str(written).rpartition(".")[2])
    if found is None:
        raise ModelError(
            f"{files.name} applies {written!r:.80} to its scores, which is not known here; give activation='identity' or 'sigmoid'."
        )
    return found
