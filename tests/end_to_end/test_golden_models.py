"""Published models give the scores that the tests of sentence-transformers expect of them (float32, to 0.01).

Run by `pytest -m network tests/end_to_end/test_golden_models.py`, which fetches several GB from the hub. Otherwise, and where the hub cannot be
reached, every test here is skipped and says so.
"""

import gc
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest
from tiny_checkpoints import dense

from retrieval import LearnedSparseEncoder

pytestmark = [pytest.mark.network, pytest.mark.filterwarnings("ignore::retrieval.encoders.registry.LicenceWarning")]

QUERY = "Which planet is known as the Red Planet?"
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]
SCORES = {
    "granite-30m-sparse": [6.04771, 16.77029, 10.85245, 10.59154],
    "efficient-splade-v-large": [4.91852, 13.95462, 11.87605, 12.65839],
    "efficient-splade-vi-bt-large": [4.89399, 13.49699, 11.25572, 12.38231],
    "splade++-ensembledistil": [8.3984, 22.53437, 17.49611, 17.43306],
    "splade++-selfdistil": [7.46435, 19.78329, 17.04635, 18.57447],
    "splade-v3": [12.14491, 26.104, 22.00245, 23.3877],
    "splade-v3-distilbert": [14.09051, 26.74469, 20.17685, 21.46064],
    "splade-v3-doc": [2.59649, 5.20825, 3.98631, 4.80111],
    "splade-v3-lexical": [2.72184, 5.90968, 5.28795, 5.69247],
    "splade-v2-distil": [10.31571, 27.80097, 21.33898, 24.31745],
    "splade-v2-max": [9.8665, 21.85902, 15.46679, 19.21293],
    "opensearch-doc-v1": [5.60338, 15.5549, 11.63231, 14.3729],
    "opensearch-doc-v2-distill": [8.87648, 21.10651, 16.59742, 18.52468],
    "opensearch-doc-v2-mini": [5.63165, 14.10177, 12.41127, 13.27736],
    "opensearch-doc-v3-distill": [5.40216, 11.59338, 9.66898, 10.57229],
    "opensearch-v1": [7.81391, 20.89011, 17.19859, 18.00109],
    "opensearch-v2-distill": [11.66555, 39.72486, 31.46797, 29.06855],
    "splade-pp-en-v1": [7.53973, 21.1464, 15.389, 16.90205],
    "splade-pp-en-v2": [6.62724, 19.52456, 16.87119, 16.45899],
    "splade-mini": [5.89081, 17.4685, 13.97732, 16.45229],
    "splade-tiny": [4.99237, 18.62739, 12.62022, 13.89826],
}


@pytest.fixture(scope="module")
def hub(request):
    """Once: whether somebody wants it, and somebody answers at the hub's address within two seconds."""
    from huggingface_hub import constants

    if "network" not in request.config.option.markexpr:
        pytest.skip("NOT RUN: no published model was checked; -m network does, and fetches several GB")

    host = urlsplit(constants.ENDPOINT).hostname
    try:
        socket.create_connection((host, 443), timeout=2).close()
    except OSError as error:
        pytest.skip(f"NOT RUN: no published model was checked, {host} cannot be reached ({error})")
    return constants


def loaded(name, hub, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    gc.collect()  # one model at a time
    return LearnedSparseEncoder.from_pretrained(name)


def rows(encoder, queries, documents):
    both = encoder.encode_queries(queries), encoder.encode_texts(documents)
    return [dense(each, encoder.num_terms) for each in both]


@pytest.mark.parametrize("name", SCORES)
def test_a_published_model_has_its_published_scores(hub, monkeypatch, name):
    query, documents = rows(loaded(name, hub, monkeypatch), [QUERY], DOCUMENTS)
    np.testing.assert_allclose(documents @ query[0], SCORES[name], atol=0.01)


@pytest.mark.parametrize(("name", "score", "weights"), [
    ("opensearch-doc-v2-distill", 17.5307, {"ny": (5.7729, 1.4109), "weather": (4.5684, 1.4673), "now": (3.5895, 0.7473)}),
    ("opensearch-doc-v3-distill", 11.1105, {"ny": (5.7729, 0.8049), "weather": (4.5684, 0.9710), "now": (3.5895, 0.4720),
                                            "?": (3.3313, 0.0286), "what": (2.7699, 0.0787), "in": (0.4989, 0.0417)}),
])  # fmt: skip
def test_opensearchs_own_example(hub, monkeypatch, name, score, weights):
    encoder = loaded(name, hub, monkeypatch)
    query, document = rows(encoder, ["What's the weather in ny now?"], ["Currently New York is rainy."])
    assert document[0] @ query[0] == pytest.approx(score, abs=1e-3, rel=0.01)
    for token, (of_query, of_document) in weights.items():
        term = encoder.tokenizer.token_to_id(token)
        assert query[0, term] == pytest.approx(of_query, abs=1e-3)
        assert document[0, term] == pytest.approx(of_document, abs=1e-3)
