"""A trained encoder as files: the layout of sentence-transformers, which our loader and theirs open."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from index.files import told
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import quiet
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.sentence_transformers_writer import check_expressible, write_modules, write_tokenizer
from retrieval.encoders.term_weights import TermWeights
from retrieval.training.adapters import merged_weights
from retrieval.training.sparse.model import QueryTable, SparseModel, SparseTowers


def write_towers(towers: SparseTowers, began_as: LearnedSparseEncoder, folder: Path) -> None:
    """Fills an empty folder. Raises ModelError where the format has no place for what the encoder does."""
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as kept:
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
                write_checkpoint(tower, began_as, Path(kept) / name)
                files = ModelFiles(str(Path(kept) / name))
            assert isinstance(side, NeuralSide)
            sides[name] = NeuralSide(files, side.options, began_as.tokenizer)
        query: NeuralSide | TermWeights
        if isinstance(towers.query, QueryTable):
            query = TermWeights(towers.query.weights.detach().cpu().numpy())
        else:
            query = sides["query"]
        encoder = LearnedSparseEncoder(began_as.name, began_as.tokenizer, began_as.num_terms, sides["document"], query)
        check_expressible(encoder)
        write_modules(encoder, folder)


def write_checkpoint(model: SparseModel, began_as: LearnedSparseEncoder, folder: Path) -> None:
    """As transformers saves it, adapters merged."""
    with model.whole() as module:
        module.config.architectures, module.config.dtype = [type(module).__name__], torch.float32
        tensors = {name: value.detach().cpu().contiguous() for name, value in merged_weights(module)}
        with told(folder), quiet():
            module.save_pretrained(folder, state_dict=tensors)
    write_tokenizer(folder, began_as, began_as.document.files, model.options.max_length)
