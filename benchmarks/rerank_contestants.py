"""Who is timed by rerank.py: a decoder with attention by blocks, with causal attention, with cached documents; a cross-encoder.

All but the cross-encoder are one model in memory, with one layer that the score is read from.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rerank_costs import Decoder, Work, encoder_work
from transformers import AttentionInterface, AutoModel, BertConfig, BertForSequenceClassification, MistralConfig
from transformers import PreTrainedTokenizerFast as FastTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from index.errors import WinnowError
from kernels.block_layout import BlockLayout, PromptBlocks
from retrieval.corpus import read_corpus
from retrieval.encoders import ragged_model
from retrieval.encoders.minilm import minilm_folder
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.ragged_model import replace_linear_layers
from retrieval.rerankers import block_pass, block_rank
from retrieval.rerankers.block_model import ON_GPU, BlockModel
from retrieval.rerankers.block_pass import BLOCKS, Finished, Part, Pass, Prompt
from retrieval.rerankers.block_rank import BlockRankReranker, MassWatch
from retrieval.rerankers.cross_encoder import CrossEncoderReranker, PairReader
from retrieval.rerankers.document_cache import DocumentCache
from retrieval.rerankers.list_model import ListModel, num_layers_of, transformers_tokenizer
from retrieval.rerankers.prompt import PromptReader
from retrieval.rerankers.settings import BlockRankSettings, default_settings, load_settings

SHAPES: dict[str, dict[str, Any]] = {
    "mistral-7b": {
        "vocab_size": 32_768, "hidden_size": 4_096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32_768,
        "sliding_window": None,
    },
}  # fmt: skip
MINILM = {"hidden_size": 384, "intermediate_size": 1_536, "num_hidden_layers": 6, "num_attention_heads": 12}
SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
SPECIAL_NAMES = {f"{one.strip('[]').lower()}_token": one for one in SPECIAL}
VOCABULARY = 30_000  # tokens of a made tokenizer, at most
MOST_WORDS = 200_000  # of a corpus
QUERY_WORDS = 10
SEED = 0
UNBOUNDED = 1 << 50  # bytes of a cache: what is timed is a cache with all documents in it
LIBRARY = "winnow-benchmark-sdpa"
PART_TOKENS = 2_048  # of a causal prompt in parts


class Contestant(NamedTuple):
    name: str
    rank: Callable[[str, Sequence[str]], Any]
    work: Callable[[str, Sequence[str]], Work]
    starts_anew: Callable[[], None] = lambda: None  # before another number of documents


class Model(NamedTuple):
    """What the contestants with a decoder share."""

    blocks: BlockModel
    tokenizer: Any
    files: Any  # of which ListModel asks for a folder and a fingerprint
    settings: BlockRankSettings

    @property
    def num_layers(self) -> int:
        return self.settings.score_layer + 1

    @property
    def decoder(self) -> Decoder:
        return Decoder.of(self.blocks.model.config.get_text_config(), self.num_layers)

    def lists(self, settings: BlockRankSettings, cache: DocumentCache | None = None) -> ListModel:
        return ListModel(self.blocks, PromptReader(self.tokenizer, settings), self.files, self.num_layers, cache)


class MadeFiles(NamedTuple):
    folder: Path
    found_fingerprint: str


def load_model(folder: str, dtype: str, device: str, document_tokens: int) -> Model:
    """A decoder's folder; its own prompt settings, but for the length of documents and a chat format that it lacks."""
    files = ModelFiles(folder)
    tokenizer, total = transformers_tokenizer(files), num_layers_of(files)
    options = {"document_tokens": document_tokens}
    options |= {} if tokenizer.chat_template else {"chat": "none"}
    settings = load_settings(files.name, files.folder, total, options)
    return Model(BlockModel.load(files, settings.score_layer + 1, dtype, device), tokenizer, files, settings)


def make_model(shape: str, words: list[str], dtype: str, device: str, document_tokens: int, scratch: Path) -> Model:
    """Random weights of a shape, made where they run and only as far as they run; a tokenizer of the words at hand."""
    config = MistralConfig(**SHAPES[shape])
    settings = default_settings(config.num_hidden_layers)
    settings = BlockRankSettings(settings.score_layer, chat="none", document_tokens=document_tokens)
    config.num_hidden_layers = settings.score_layer + 1
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    blocks = BlockModel(model, shape)
    if model.device.type == "cuda":
        blocks.tokens_together = ON_GPU  # as of a model that is loaded
    replace_linear_layers(model)
    return Model(blocks, make_tokenizer(words, min(config.vocab_size, VOCABULARY)), MadeFiles(scratch, shape), settings)


def make_tokenizer(words: list[str], vocabulary: int) -> FastTokenizer:
    """Byte pairs of these words, with a template for pairs of texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([" ".join(words), block_rank.__doc__ or ""], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(one, made.token_to_id(one)) for one in SPECIAL[2:]],
    )
    return FastTokenizer(tokenizer_object=made, model_input_names=["input_ids", "attention_mask"], **SPECIAL_NAMES)


def make_cross_encoder(words: list[str], folder: Path) -> str:
    """A folder with random weights in the shape of MiniLM of 6 layers, and its tokenizer where it is at hand: for its time only."""
    try:
        file = str(minilm_folder() / "tokenizer.json")
        tokenizer = FastTokenizer(tokenizer_file=file, **SPECIAL_NAMES)
    except WinnowError:
        tokenizer = make_tokenizer(words, VOCABULARY)
    torch.manual_seed(SEED)
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **MINILM)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def some_words(data: Path | None) -> list[str]:
    """Of a BEIR folder's documents in order, or made of syllables."""
    if data is not None:
        texts = (document.searched_text.split() for document in read_corpus(data))
        return list(itertools.islice(itertools.chain.from_iterable(texts), MOST_WORDS))
    rng = np.random.default_rng(SEED)
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstv", "aeiou")]
    known = ["".join(rng.choice(syllables, count)) for count in rng.integers(1, 4, 4_000)]
    return rng.choice(known, 20_000).tolist()


def make_texts(words: list[str], reader: PromptReader, count: int, mean: int) -> list[str]:
    """Documents whose blocks have from 3/4 to 5/4 of `mean` tokens, nearly: pieces of the words, in order and again from the start."""
    marks = len(reader.documents([""])[0].ids)
    sample = words[:2_000]
    tokens_a_word = len(reader.text_ids(" ".join(sample))) / len(sample)
    lengths = np.random.default_rng(SEED).integers(mean * 3 // 4, mean * 5 // 4 + 1, count)
    stream = itertools.cycle(words)
    return [
        " ".join(itertools.islice(stream, max(1, round((int(length) - marks) / tokens_a_word)))) for length in lengths
    ]


def make_queries(words: list[str], count: int) -> list[str]:
    return [" ".join(words[first : first + QUERY_WORDS]) for first in range(count)]


class CausalReranker(BlockRankReranker):
    """The same prompt and score; every token sees all before it, as the architecture does by itself. All tokens at once."""

    def log_masses(self, query: str, texts: Sequence[str]) -> np.ndarray:
        read = self.lists.read(query, texts)
        last = self.lists.reader.last(query)
        watch = MassWatch(read.starts, self.lists.settings.score_layer, self.lists.reader.signal(last))
        with (
            torch.inference_mode()
        ):  # past the model's positions too, where only time counts: whether is told by rerank.py
            self.infer(self.lists.prompt(read, last), watch)
        assert watch.log_mass is not None
        return watch.log_mass.double().cpu().numpy()

    def infer(self, prompt: Prompt, watch: MassWatch) -> None:
        self.lists.model.run(self.lists.model.start(prompt, watch, causal=True))


class CausalInParts(CausalReranker):
    """The same in parts of a prompt, whose hidden states fit into the caches of a processor."""

    def infer(self, prompt: Prompt, watch: MassWatch) -> None:
        self.lists.model.run(PassInParts(prompt, watch, self.lists.model.model.device, PART_TOKENS, causal=True))


class PassInParts(Pass):
    def divided(self, device: torch.device, tokens_together: int) -> Iterator[Part]:
        """So many tokens each; the last part has at least the last block. Each sees what came before it."""
        starts = [*range(0, max(1, self.num_keys - len(self.last)), tokens_together), self.num_keys]
        for start, stop in pairwise(starts):
            layout = BlockLayout.of([stop - start], [start], [(0, start)], device)
            keys = torch.arange(start, stop, device=device)
            yield Part(slice(start, stop), keys, layout, (), stop == self.num_keys)


class CausalByLibrary(CausalReranker):
    """The same by transformers' own attention, PyTorch's scaled-dot-product attention, up to the same point in the same layer."""

    def infer(self, prompt: Prompt, watch: MassWatch) -> None:
        model = self.lists.model
        model.model.set_attn_implementation(LIBRARY)
        try:
            super().infer(prompt, watch)
        finally:
            model.model.set_attn_implementation(BLOCKS)


def library_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: None,
    *,
    blocks: Pass,
    **keywords: Any,
) -> Any:
    """Under a name of its own: of those that the library knows it would build masks of tokens by tokens for some inputs."""
    assert mask is None
    if module.layer_idx == blocks.watch.last_layer:
        blocks.show(module.layer_idx, query[0].transpose(0, 1), key[0].transpose(0, 1), None, keywords["scaling"])
        raise Finished
    return sdpa_attention_forward(module, query, key, value, None, **keywords)


AttentionInterface.register(LIBRARY, library_attention)

PLACES = [
    *((PromptReader, name, "tokenization") for name in ("instruction", "documents", "last")),
    (PairReader, "of", "tokenization"),
    (DocumentCache, "get", "states"),
    (Pass, "of_all", "states"),
    (block_pass, "block_attention", "attention"),
    (block_rank, "log_document_mass", "scoring"),
    (ragged_model, "scaled_dot_product_attention", "attention"),
    (ragged_model, "flash_attention", "attention"),
    (sys.modules[__name__], "sdpa_attention_forward", "attention"),
]


def blocks_contestant(model: Model) -> Contestant:
    lists = model.lists(model.settings)
    return Contestant("blocks", BlockRankReranker(lists, "blocks").rank, work_of(model, lists))


CAUSAL = {"kernel": CausalReranker, "kernel in parts": CausalInParts, "sdpa": CausalByLibrary}


def causal_contestants(model: Model) -> dict[str, Contestant]:
    """The ways there are to compute it."""
    lists = model.lists(model.settings)
    work = work_of(model, lists, causal=True)
    return {way: Contestant("causal", kind(lists, "causal").rank, work) for way, kind in CAUSAL.items()}


def cached_contestant(model: Model) -> Contestant:
    """Its prompt has no query before the documents and no numbers of documents."""
    settings = model.settings if model.settings.is_query_free else model.settings.query_free()
    reranker = BlockRankReranker(model.lists(settings), "cached")

    def start_anew() -> None:
        reranker.lists = model.lists(settings, DocumentCache(memory_bytes=UNBOUNDED))

    return Contestant(
        "cached", lambda *one: reranker.rank(*one), work_of(model, reranker.lists, cached=True), start_anew
    )


def cross_encoder_contestant(folder: str, dtype: str, device: str) -> Contestant:
    reranker = CrossEncoderReranker.from_pretrained(folder, dtype=dtype, device=device)

    def work(query: str, texts: Sequence[str]) -> Work:
        tokens = reranker.reader.of([(query, text) for text in texts])
        return encoder_work(reranker.model.head.config, [len(one.ids) for one in tokens])

    return Contestant("cross-encoder", reranker.rank, work)


def work_of(model: Model, lists: ListModel, **kind: bool) -> Callable[[str, Sequence[str]], Work]:
    def work(query: str, texts: Sequence[str]) -> Work:
        read = lists.read(query, texts)
        last = lists.reader.last(query)
        blocks = PromptBlocks(len(read.instruction), [len(ids) for ids in read.documents], len(last))
        return model.decoder.work(blocks, len(lists.reader.signal(last)), **kind)

    return work
