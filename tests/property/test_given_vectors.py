"""Vectors that come with the documents make the index that encoding the texts makes; files say what was written into them."""

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
from ciff_writer import ciff
from collections_for_tests import brute_force, stored_impacts
from hypothesis import given, settings
from hypothesis import strategies as st

from index.building import Parts
from index.inverted_files import named_arrays
from retrieval import Document, Retriever, encode_corpus
from retrieval.encoders.mini import mini
from retrieval.vector_files import read_vectors

WORDS = ["moon", "sea", "walking", "tea", "bread", "lunar", "x"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), min_size=1, max_size=6)
terms = st.sampled_from(["a", "b", "ab", "é", "", "a b", "\0", "##s", "\U0001f375"])
whole_vectors = st.lists(st.dictionaries(terms, st.integers(1, 3), max_size=5), max_size=8)
real_vectors = st.lists(
    st.dictionaries(terms, st.sampled_from([0.0, 0.1, 1.0, 3.5]) | st.floats(0, 1e30), max_size=5), max_size=8
)


def stored(retriever):
    """Every array of the index, its statistics, and what of a segment says how it is read."""
    (one,) = retriever._opened.snapshot.segments
    (arm,) = one.segment.arms.values()
    arrays = {name: array.tobytes() for name, array in named_arrays(Parts(arm.index.tiers, arm.index.forward))}
    statistics = arm.statistics.documents, arm.statistics.length, arm.statistics.document_frequency.tobytes()
    return arrays, statistics, arm.index.options, list(one.segment.documents)


@settings(max_examples=12)
@given(texts=texts, impacts=st.sampled_from(["u8", "u16", "f32"]), rng=st.randoms())
def test_an_index_from_the_vectors_of_mini_is_the_one_from_texts_bit_for_bit(texts, impacts, rng):
    corpus = [Document(str(number), text=text) for number, text in enumerate(texts)]
    expected = Retriever.from_pretrained("mini", impacts=impacts).index(corpus, progress=False)
    encoder = mini()
    rows = encoder.encode_documents(corpus).vectors
    records = []
    for row, document in enumerate(corpus):
        entries = slice(rows.indptr[row], rows.indptr[row + 1])
        weights = {encoder.terms[n]: float(w) for n, w in zip(rows.indices[entries], rows.data[entries], strict=True)}
        records.append({"id": document.doc_id, "vector": weights})
    rng.shuffle(records)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "v.jsonl.gz")
        file.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
        encode_corpus(corpus, Path(folder, "v"), "mini", progress=False)
        for source in (file, Path(folder, "v"), {record["id"]: record["vector"] for record in records}):
            given_ones = Retriever.from_pretrained("mini", impacts=impacts).index(
                corpus, vectors=source, progress=False
            )
            assert stored(given_ones) == stored(expected)
            for query in ("moon walk", "tea", {"lunar": 1.0, "##ing": 0.3}):
                assert given_ones.search(query) == expected.search(query)


@given(vectors=whole_vectors, rng=st.randoms(), packed=st.booleans())
def test_ciff_says_what_was_written_into_it(vectors, rng, packed):
    by_id = {f"doc {number}": vector for number, vector in enumerate(vectors)}
    order = list(range(len(by_id)))
    rng.shuffle(order)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "v.ciff.gz" if packed else "v.ciff")
        file.write_bytes(gzip.compress(ciff(by_id, order)) if packed else ciff(by_id, order))
        read = read_vectors(file)
        assert {document.doc_id: document.vector for document in read.documents()} == by_id
        assert read.find(list(reversed(by_id))) == list(reversed(by_id.values()))


@given(vectors=real_vectors)
def test_csr_says_what_was_written_into_it(vectors):
    names = sorted({term for vector in vectors for term in vector if term != "\0"})  # NumPy drops zeros at the end
    rows = [[(names.index(term), w) for term, w in vector.items() if term in names] for vector in vectors]
    entries = [entry for row in rows for entry in row]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            Path(folder, "v.npz"),
            indptr=np.cumsum([0, *map(len, rows)]),
            indices=np.array([term for term, _ in entries], np.int64),
            data=np.array([weight for _, weight in entries], np.float32),
            ids=np.array([f"doc {number}" for number in range(len(rows))], str),
            terms=np.array(names, str),
        )
        read = {document.doc_id: document.vector for document in read_vectors(Path(folder, "v.npz")).documents()}
    expected = {
        f"doc {number}": {names[term]: float(np.float32(w)) for term, w in row if np.float32(w) > 0}
        for number, row in enumerate(rows)
    }
    assert read == expected


@given(
    vectors=real_vectors.filter(bool),
    query=st.dictionaries(terms, st.sampled_from([0, 1, 2.5]), max_size=4),
    impacts=st.sampled_from(["u8", "u16", "f32"]),
    cut=st.integers(0, 8),
)
def test_scores_of_given_vectors_are_those_of_brute_force(vectors, query, impacts, cut):
    retriever = Retriever.from_pretrained("vectors", impacts=impacts)
    documents = [Document(str(number), vector=vector) for number, vector in enumerate(vectors)]
    for some in (documents[:cut], documents[cut:]):
        if some:
            retriever.add(some, progress=False).commit(progress=False, merge=False)
    numbers = {
        term: number for number, term in enumerate(sorted({term for vector in [query, *vectors] for term in vector}))
    }
    numbered = [{numbers[term]: np.float32(w) for term, w in vector.items()} for vector in vectors]
    expected = brute_force(
        stored_impacts(numbered, impacts), {numbers[term]: weight for term, weight in query.items()}, 10
    )
    for _ in range(2):
        found = [(hit.score, int(hit.doc_id)) for hit in retriever.search(query)]
        assert found == expected
        retriever.merge()
