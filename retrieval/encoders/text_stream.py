"""A stream of texts through a model: tokenized ahead, texts of like length together, so many tokens a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np

from index.errors import ModelError, WinnowWarning
from retrieval.encoders.tokens import TextReader, Tokens

NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")  # the last one is oneDNN's

Seen = Callable[[list[np.ndarray]], None]
Found = TypeVar("Found")


class Read(Protocol):
    """What goes into a batch."""

    @property
    def ids(self) -> np.ndarray: ...


OneRead = TypeVar("OneRead", bound=Read)


class TruncationWarning(WinnowWarning):
    """Texts were longer than the model reads."""

    def __init__(self, num_cut: int, num_texts: int, max_length: int):
        super().__init__(
            f"{num_cut:,} of {num_texts:,} texts have more than max_length = {max_length} tokens; what comes after was not read."
        )
        self.numbers = num_cut, num_texts, max_length


class MemoryWarning(WinnowWarning):
    """Memory ran out, and smaller batches are tried."""


class TextStream:
    """What every side with a model has: its tokens, its model, and how texts are put into batches."""

    tokens: TextReader
    model: Any  # with texts_together and tokens_a_batch
    max_length: int
    tokens_a_batch: int | None = None  # the model's own number, until memory runs out

    def stream(
        self, texts: Iterable[str], work: Callable[[list[Tokens]], Found], seen: Seen = lambda own: None
    ) -> Iterator[Found]:
        """What `work` finds in the texts, some at a time; the next texts are tokenized meanwhile."""
        texts, num_texts, num_cut = iter(texts), 0, 0

        def some() -> list[str]:
            return list(islice(texts, self.model.texts_together))

        with ThreadPoolExecutor(1, "tokenizer") as beside:  # which starts no thread for texts that are few
            first = some()
            tokens = self.tokens.of(first) if first else []
            while tokens:
                following = some()
                waiting = beside.submit(self.tokens.of, following) if following else None
                seen([one.own for one in tokens])
                num_texts += len(tokens)
                num_cut += sum(one.is_cut for one in tokens)
                yield work(tokens)
                tokens = [] if waiting is None else waiting.result()
        if num_cut:
            warnings.warn(TruncationWarning(num_cut, num_texts, self.max_length), stacklevel=2)

    def in_batches(
        self, tokens: Sequence[OneRead], work: Callable[[list[OneRead]], Sequence[Found]], empty: Found
    ) -> list[Found]:
        """What `work` finds in each text, in order, and `empty` for one without tokens. Where memory runs out, batches are halved, from
        then on."""
        rows = [empty] * len(tokens)
        by_length = sorted((i for i, one in enumerate(tokens) if len(one.ids)), key=lambda i: len(tokens[i].ids))
        first = 0
        while first < len(by_length):
            batch = by_length[first : first + self.fitting([len(tokens[i].ids) for i in by_length[first:]])]
            try:
                found = work([tokens[i] for i in batch])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self.halve(len(batch), sum(len(tokens[i].ids) for i in batch), error)
                continue
            for i, row in zip(batch, found, strict=True):
                rows[i] = row
            first += len(batch)
        return rows

    def fitting(self, lengths: Sequence[int]) -> int:
        """How many of the first texts go into a batch: at least one."""
        return max(
            1, int(np.searchsorted(np.cumsum(lengths), self.tokens_a_batch or self.model.tokens_a_batch, side="right"))
        )

    def halve(self, num_texts: int, num_tokens: int, error: BaseException) -> None:
        if num_texts == 1:
            raise ModelError(
                f"there is not enough memory for one text of {num_tokens} tokens; lower max_length."
            ) from error
        if self.tokens_a_batch is None:
            warnings.warn(
                f"memory ran out with {num_tokens:,} tokens in a batch; batches are halved and tried again.",
                MemoryWarning,
                stacklevel=4,
            )
        self.tokens_a_batch = num_tokens // 2


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch tells it in several ways."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(told in text for told in NO_MEMORY)
