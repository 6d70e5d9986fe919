"""A trained encoder as files: the layout of sentence-transformers, which our loader and theirs open; what that has no place for (a decoder,
echo, a threshold) as transformers saves models, with a file that says how they encode (`encoder_file`)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from index.errors import ModelError
from index.files import rename, told, write_file
from index.manifest import as_json
from retrieval.encoders.encoder_file import write_encoder_file
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import quiet
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.plain_checkpoints import QUERY_WEIGHTS
from retrieval.encoders.sentence_transformers_writer import check_expressible, write_modules, write_tokenizer
from retrieval.encoders.term_weights import TermWeights
from retrieval.training.adapters import merged_weights
from retrieval.training.sparse.model import QueryTable, SparseModel, SparseTowers


def write_towers(towers: SparseTowers, began_as: LearnedSparseEncoder, folder: Path) -> None:
    """Fills an empty folder. Raises ModelError for a start whose tokenizer transformers cannot read."""
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as kept:
        root = Path(kept) / "document"
        places = {"document": root, "query": root / "query"}
        sides: dict[str, NeuralSide] = {}
        for name, tower, side in (
            ("document", towers.document, began_as.document),
            ("query", towers.query, began_as.query),
        ):
            if isinstance(tower, QueryTable):
                continue
            if name == "query" and tower is towers.document:
                files = sides["document"].files
            else:
                write_checkpoint(tower, began_as, places[name])
                files = ModelFiles(str(places[name]))
            assert isinstance(side, NeuralSide)
            sides[name] = NeuralSide(files, side.options, began_as.tokenizer)
        query: NeuralSide | TermWeights
        if isinstance(towers.query, QueryTable):
            query = TermWeights(towers.query.weights.detach().cpu().numpy())
        else:
            query = sides["query"]
        encoder = LearnedSparseEncoder(began_as.name, began_as.tokenizer, began_as.num_terms, sides["document"], query)
        try:
            check_expressible(encoder)
        except ModelError:
            write_beside(encoder, root)
            move_all(root, folder)
        else:
            write_modules(encoder, folder)


def write_beside(encoder: LearnedSparseEncoder, folder: Path) -> None:
    """Complete a folder that holds the models: query weights, and how all of it encodes."""
    query = encoder.query
    if isinstance(query, NeuralSide):
        write_encoder_file(folder, encoder.document.options, query.options)
        return
    assert isinstance(query, TermWeights)
    # as JSON: a token may hold the line breaks that part the lines of query_token_weights.txt
    tokens = ((encoder.tokenizer.id_to_token(term), term) for term in np.flatnonzero(query.weights).tolist())
    weights = {
        token: float(query.weights[term]) for token, term in tokens if token is not None
    }  # a row beyond has none
    write_file(folder / QUERY_WEIGHTS[0], as_json(weights))
    write_encoder_file(folder, encoder.document.options, {})


def move_all(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        rename(path, folder / path.name)


def write_checkpoint(model: SparseModel, began_as: LearnedSparseEncoder, folder: Path) -> None:
    """As transformers saves it, adapters merged."""
    with model.whole() as module:
        module.config.architectures, module.config.dtype = [type(module).__name__], torch.float32
        tensors = {name: value.detach().cpu().contiguous() for name, value in merged_weights(module)}
        with told(folder), quiet():
            module.save_pretrained(folder, state_dict=tensors)
    write_tokenizer(folder, began_as, began_as.document.files, model.options.max_length)
