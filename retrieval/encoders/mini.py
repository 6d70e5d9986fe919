"""`mini`: the embedded default, all-MiniLM-L6-v2 with its input embeddings for the head it does not have.

    document    w(t) = ln(1 + ln(1 + relu(max over tokens i of h_i . e_t - threshold)))
    query       w(t) = idf(t) for each token t of the query, once; see CollectionIdf

It is UNTRAINED for this task. Threshold and the second log were chosen on SQuAD and PubMed texts that no test uses
(docs/decisions/0004).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from index.options import WeightImpacts
from retrieval.encoders.learned import LearnedSparseEncoder, read_stored_tokenizer
from retrieval.encoders.minilm import FINGERPRINT, HUB_NAME, REVISION, WEIGHTS_SHA256, minilm_folder
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.term_weights import CollectionIdf
from retrieval.encoders.tokens import special_terms

OPTIONS = NeuralOptions(
    activation="log1p_log1p",
    threshold=2.5,
    max_length=256,
    pool_special=False,
    special_terms=False,
    projection="tied",
)


def mini(impacts: WeightImpacts | None = None, **options: Any) -> LearnedSparseEncoder:
    """The encoder; its weights are read when a document is encoded.

    options  of NeuralOptions, in place of `OPTIONS`
    """
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    return of(tokenizer, impacts or "u8", replace(OPTIONS, **options), WEIGHTS_SHA256)


def of(tokenizer: Tokenizer, impacts: WeightImpacts, options: NeuralOptions, weights: str) -> LearnedSparseEncoder:
    """weights  the sha256 of model.safetensors"""
    fingerprint = FINGERPRINT if weights == WEIGHTS_SHA256 else weights
    document = NeuralSide(ModelFiles(HUB_NAME, REVISION, fingerprint=fingerprint), options, tokenizer)
    num_terms = tokenizer.get_vocab_size(with_added_tokens=True)
    return LearnedSparseEncoder(
        "mini", tokenizer, num_terms, document, CollectionIdf(special_terms(tokenizer)), impacts
    )


def read_first_release(path: Path, description: dict[str, Any]) -> LearnedSparseEncoder:
    """Of an index of before there were other learned encoders, which says less."""
    stored = description["options"]
    options = replace(OPTIONS, threshold=stored["threshold"], max_length=stored["max_length"])
    return of(read_stored_tokenizer(path), stored["impacts"], options, stored["weights_sha256"])
