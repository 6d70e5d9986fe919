"""What a list costs: the operations that it needs, counted, and where its time goes, by clocks around the functions that take it."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from kernels.block_layout import PromptBlocks

ON_DEVICE = ("attention", "scoring", "states")  # parts that a GPU may still be at when their function returns
PARTS = ("tokenization", "states", "attention", "scoring", "layers")


class Work(NamedTuple):
    """Multiplications and additions, each one operation."""

    tokens: int  # that are read
    computed: int  # of these, that go through the layers
    linear: int
    attention: int
    scoring: int


class Decoder(NamedTuple):
    """A decoder's sizes as far as it runs. Of the last layer only queries, keys and values are computed, of the others all."""

    num_layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    size: int

    @classmethod
    def of(cls, config: Any, num_layers: int) -> Decoder:
        heads, width = config.num_attention_heads, config.hidden_size
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or width // heads
        return cls(num_layers, width, config.intermediate_size, heads, kv_heads, size)

    def work(self, blocks: PromptBlocks, signal: int, *, causal: bool = False, cached: bool = False) -> Work:
        """Of one prompt, its MLP taken for one with a gate: three matrices, as Mistral, Llama and Qwen have.

        signal  rows that the score is read from
        cached  all but the last block was computed before
        """
        tokens = blocks.instruction + sum(blocks.documents) + blocks.last
        computed = blocks.last if cached else tokens
        projected = self.width * self.size * (self.heads + 2 * self.kv_heads)
        the_rest = self.width * self.size * self.heads + 3 * self.width * self.inner
        linear = 2 * computed * (self.num_layers * projected + (self.num_layers - 1) * the_rest)
        a_pair = 2 * self.heads * self.size
        attention = 2 * a_pair * pairs(blocks, causal=causal, cached=cached) * (self.num_layers - 1)
        return Work(tokens, computed, linear, attention, a_pair * signal * sum(blocks.documents))


def pairs(blocks: PromptBlocks, *, causal: bool = False, cached: bool = False) -> int:
    """How many (query token, key token) see each other."""
    instruction, documents, last = blocks
    before = instruction + sum(documents)
    if causal:
        return triangle(before + last)
    of_last = last * before + triangle(last)
    if cached:
        return of_last
    return triangle(instruction) + sum(length * instruction + triangle(length) for length in documents) + of_last


def triangle(tokens: int) -> int:
    return tokens * (tokens + 1) // 2


def encoder_work(config: Any, lengths: Sequence[int]) -> Work:
    """Of pairs of texts through an encoder whose tokens all see each other, its MLP of two matrices, as BERT has it."""
    layers, width, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    tokens = sum(lengths)
    linear = 2 * layers * tokens * (4 * width * width + 2 * width * inner)
    return Work(tokens, tokens, linear, 4 * layers * width * sum(length * length for length in lengths), 0)


class Stopwatch:
    """Milliseconds spent in functions, by part. Times on a GPU are its own, between two events, so that nothing waits for a clock."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter):
        self.is_cuda, self.clock = device.type == "cuda", clock
        self.spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    @contextmanager
    def around(self, places: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
        """While it lasts, each (module or class, name of a function, part) is timed."""
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        try:
            for owner, name, part in places:
                setattr(owner, name, self.timed(part, getattr(owner, name)))
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        now = self.event if self.is_cuda and part in ON_DEVICE else self.clock

        @functools.wraps(function)
        def timing(*arguments: Any, **keywords: Any) -> Any:
            started = now()
            found = function(*arguments, **keywords)
            self.spans[part].append((started, now()))
            return found

        return timing

    def event(self) -> Any:
        found = torch.cuda.Event(enable_timing=True)
        found.record()
        return found

    def run(self, call: Callable[[], Any]) -> dict[str, float]:
        """Milliseconds of a call: `total`, and of each part; `layers` is what is left, linear layers and all between them."""
        self.spans.clear()
        self.wait()
        started = self.clock()
        call()
        self.wait()
        total = (self.clock() - started) * 1e3
        spent = {part: sum(map(milliseconds, self.spans[part])) for part in PARTS[:-1]}
        return {"total": total, **spent, "layers": total - sum(spent.values())}

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()


def milliseconds(span: tuple[Any, Any]) -> float:
    started, ended = span
    return (ended - started) * 1e3 if isinstance(started, float) else float(started.elapsed_time(ended))
