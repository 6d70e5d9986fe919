"""Vectors from files: JSONL, CIFF, CSR arrays; what is damaged or impossible is told with file and place."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from ciff_writer import ciff, doc_record, field, header, message, postings_list

from index.errors import CorpusError
from retrieval import Document, Retriever
from retrieval.vector_files import is_vector_file, read_vectors

VECTORS = {"a": {"green": 1, "tea": 3}, "b": {"milk": 2, "tea": 300}, "c": {}, "d": {"tea": 70_000}}
IDS, TERMS = list(VECTORS), ["tea", "green", "milk"]


def as_dict(vectors):
    return {document.doc_id: document.vector for document in vectors.documents()}


def csr(**changes):
    arrays = {
        "indptr": np.array([0, 2, 4, 4, 5], np.int32),
        "indices": np.array([0, 1, 2, 0, 0], np.int32),  # scipy does not always sort a row
        "data": np.array([3.0, 1.0, 2.0, 300.0, 70_000.0]),
        "shape": np.array([4, 3]),
        "format": np.array(b"csr"),
        "ids": np.array(IDS),
        "terms": np.array(TERMS),
    }
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(vectors, id_field="id"):
    return "".join(json.dumps({id_field: doc_id, "vector": vector}) + "\n" for doc_id, vector in vectors.items())


@pytest.fixture
def files(tmp_path):
    """The same vectors in every kind of file."""
    np.savez(tmp_path / "c.npz", **csr())
    np.savez_compressed(tmp_path / "packed.npz", **csr())
    (tmp_path / "beside").mkdir()
    np.savez(tmp_path / "beside" / "c.npz", **csr(ids=None, terms=None, format=None, shape=None))
    write(tmp_path / "beside" / "ids.txt", "\n".join(IDS))
    write(tmp_path / "beside" / "terms.txt", "".join(f"{term}\r\n" for term in TERMS))
    pyserini = [{"id": i, "contents": "text", "vector": vector} for i, vector in VECTORS.items()]
    return [
        write(tmp_path / "c.jsonl", jsonl(VECTORS)),
        write(tmp_path / "c.jsonl.gz", gzip.compress(jsonl(VECTORS, "_id").encode())),
        write(tmp_path / "p.jsonl", "\n".join(map(json.dumps, pyserini))),
        write(tmp_path / "docid.jsonl", jsonl(VECTORS, "docid")),
        write(tmp_path / "c.ciff", ciff(VECTORS)),
        write(tmp_path / "c.ciff.gz", gzip.compress(ciff(VECTORS, order=[2, 0, 3, 1]))),
        tmp_path / "c.npz",
        tmp_path / "packed.npz",
        tmp_path / "beside" / "c.npz",
        VECTORS,
    ]


def test_every_kind_of_file_says_the_same(files):
    for file in files:
        vectors = read_vectors(file)
        assert as_dict(vectors) == VECTORS, file
        assert vectors.find(["d", "nobody", "a", "c"]) == [VECTORS["d"], None, VECTORS["a"], {}], file
        assert len(vectors) == 4


def test_each_document_gets_its_vector_by_its_id_whatever_their_order(files):
    texts = [{"_id": doc_id, "text": f"text {doc_id}", "vector": [0.1], "year": 1} for doc_id in "dba"]
    for file in files:
        retriever = Retriever.from_pretrained("vectors", impacts="f32").index(texts, vectors=file, progress=False)
        found = retriever.search("tea")
        assert [(hit.doc_id, hit.score, hit.text) for hit in found] == [
            ("d", 70_000.0, "text d"), ("b", 300.0, "text b"), ("a", 3.0, "text a"),
        ]  # fmt: skip
        assert found[0].fields == {"year": 1}  # with vectors= a field called vector is taken for the same thing


def test_a_record_may_hold_the_vector_that_vectors_names(files):
    retriever = Retriever.from_pretrained("vectors").index(files[0], vectors=files[0], progress=False)
    assert [hit.fields for hit in retriever.search("tea")] == [{}, {}, {}]


def test_ciff_and_csr_files_are_a_corpus_for_the_model_vectors(files):
    for file in files[4:9]:
        assert is_vector_file(file)
        retriever = Retriever.from_pretrained("vectors", impacts="f32").index(file, progress=False)
        assert [(hit.doc_id, hit.score) for hit in retriever.search({"milk": 2.0, "green": 1})] == [
            ("b", 4.0),
            ("a", 1.0),
        ]
        assert len(retriever) == 4
        for name in ("bm25", "mini"):
            with pytest.raises(CorpusError, match=f"holds vectors without texts, and {name} reads texts"):
                Retriever.from_pretrained(name).index(file, progress=False)
        with pytest.raises(CorpusError, match="holds vectors, and so does vectors="):
            Retriever.from_pretrained("vectors").index(file, vectors=file, progress=False)


def test_a_document_without_a_vector_there_is_named_and_nothing_is_staged(files):
    retriever = Retriever.from_pretrained("vectors")
    for file in files:
        with pytest.raises(CorpusError, match="has no vector for the document 'z'; each document needs one there"):
            retriever.add([{"_id": "a"}, {"_id": "z"}], vectors=file, progress=False)
        assert retriever._writer is None


def test_other_models_take_vectors_or_refuse_them(files):
    with pytest.raises(CorpusError, match="document 'a' brings a vector, and bm25 counts"):
        Retriever.from_pretrained("bm25").add([{"_id": "a", "text": "tea"}], vectors=files[0], progress=False)
    retriever = Retriever.from_pretrained("mini", impacts="f32")
    retriever.index([{"_id": "a", "text": "x"}, {"_id": "b", "text": "tea"}], vectors=files[4], progress=False)
    assert [(hit.doc_id, hit.score) for hit in retriever.search({"tea": 1.0})] == [("b", 300.0), ("a", 3.0)]
    with pytest.raises(
        CorpusError, match="document 'e' has the term 'greentea' in its vector, which the vocabulary of mini"
    ):
        retriever.add([{"_id": "e"}], vectors={"e": {"greentea": 1}}, progress=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x", "vector": {"tea": 1}', "c.jsonl:2 is not valid JSON"),
        ('{"id": "x", "vector": {"tea": 1e999}}', r"c.jsonl:2 is not valid JSON \(1e999 is too large\)"),
        ('{"id": "x", "vector": {"tea": -1}}', "c.jsonl:2 has the weight -1 of the term 'tea'"),
        ('{"id": "x", "vector": {"tea": 1e300}}', r"c.jsonl:2 has the weight 1e\+300 of the term 'tea'"),
        ('{"id": "x", "vector": {"tea": null}}', "c.jsonl:2 has the weight None of the term 'tea'"),
        ('{"id": "x", "vector": {"\\ud800": 1}}', "c.jsonl:2 has a term that is not valid Unicode"),
        ('{"id": "x", "vector": [1, 2]}', r"c.jsonl:2 has list \[1, 2\] as its vector"),
        ('{"id": "x"}', "c.jsonl:2 has no vector; each line needs one"),
        ('{"id": "ok", "vector": {}}', "c.jsonl:2 has the id 'ok' of one before it"),
        ('{"vector": {}}', "c.jsonl:2 has no _id or id"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    file = write(tmp_path / "c.jsonl", '{"id": "ok", "vector": {"tea": 1}}\n' + line)
    with pytest.raises(CorpusError, match=message):
        read_vectors(file)


TEA = postings_list("tea", [(0, 1), (1, 2)])
NAMES = doc_record(0, "a") + doc_record(1, "b")
AT = len(header(1, 2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with no header"),
        (message(b"\xff"), "begins with no header"),
        (header(1, 2, version=2) + TEA + NAMES, "is CIFF of version 2; this release reads version 1"),
        ((header(1, 2) + TEA + NAMES)[:-1], r"ends within its message at byte \d+"),
        (header(1, 2) + TEA + b"\x80" * 11, rf"ends within its message at byte {AT + len(TEA)}"),
        (header(2, 2) + TEA + NAMES, "says that it holds 2 postings lists and 2 documents, but 3 messages follow"),
        (header(-1, 4) + TEA + NAMES, "says that it holds -1 postings lists and 4 documents"),
        (header(1, 2) + message(b"\x0b") + NAMES, f"the message at byte {AT} is no postings list"),
        (header(1, 2) + postings_list("tea", [(0, 1), (0, 2)]) + NAMES, f"the message at byte {AT} names documents that"),
        (header(1, 2) + postings_list("tea", [(1, 1), (1, 2)]) + NAMES, f"the message at byte {AT} names documents that"),
        (header(1, 2) + postings_list("tea", [(1, 1), (-1, 2)]) + NAMES, f"the message at byte {AT} names documents that"),
        (header(1, 2) + postings_list("tea", [(0, -5)]) + NAMES, f"the message at byte {AT} has a weight below 0"),
        (header(2, 2) + TEA + TEA + NAMES, "has two lists of the term 'tea'"),
        (header(1, 2) + message(field(1, b"\xff")) + NAMES, f"the message at byte {AT} has a text that is not UTF-8"),
        (header(1, 2) + TEA + doc_record(0, "a") * 2, "is no record of a document, 0 to 1, that none before is of"),
        (header(1, 2) + TEA + doc_record(0, "a") + doc_record(2, "b"), "is no record of a document, 0 to 1"),
        (header(1, 2) + TEA + doc_record(0, "a") + doc_record(1, "a"), "has the id 'a' of one before it"),
        (header(1, 2) + TEA + doc_record(0, "a") + doc_record(1, ""), "has an empty id"),
    ],
)  # fmt: skip
def test_a_damaged_ciff_file_is_named_with_the_place(tmp_path, data, message):
    file = write(tmp_path / "c.ciff", data)
    with pytest.raises(CorpusError, match=message) as refused:
        read_vectors(file)
    assert str(refused.value).startswith(str(file))


def test_fields_of_later_versions_of_ciff_are_passed_over(tmp_path):
    later = field(9, 5) + field(10, b"new") + bytes([11 << 3 | 5]) + bytes(4) + bytes([12 << 3 | 1]) + bytes(8)
    posting = field(4, field(1, 1) + field(2, 6) + later)
    data = header(1, 2) + message(later, field(1, b"tea"), posting, later) + NAMES
    assert as_dict(read_vectors(write(tmp_path / "c.ciff", data))) == {"a": {}, "b": {"tea": 6.0}}


def test_a_ciff_file_of_no_documents_is_an_empty_corpus(tmp_path):
    with pytest.raises(CorpusError, match="the corpus holds no documents"):
        Retriever.from_pretrained("vectors").index(write(tmp_path / "c.ciff", header(0, 0)), progress=False)


def test_what_unpacks_to_too_much_or_not_at_all_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"b.ciff.gz unpacks to more than 4,194,304 bytes, from [\d,]+; unpack it"):
        read_vectors(write(tmp_path / "b.ciff.gz", gzip.compress(bytes(9 << 20))))
    with pytest.raises(CorpusError, match=r"c.ciff.gz is not a whole gzip file"):
        read_vectors(write(tmp_path / "c.ciff.gz", gzip.compress(ciff(VECTORS))[:-9]))
    np.savez_compressed(tmp_path / "b.npz", **csr(data=np.zeros(9 << 20)))
    with pytest.raises(
        CorpusError, match=r"b.npz unpacks to 75,\d+,\d+ bytes, from [\d,]+; save it without compression"
    ):
        read_vectors(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indptr": None}, "has no array 'indptr', as a CSR matrix has"),
        ({"terms": None}, "has no array 'terms', and there is no terms.txt beside it"),
        ({"format": np.array(b"csc")}, "holds a matrix of the format b'csc'; save it as CSR"),
        ({"ids": np.array(IDS, object)}, "is no whole archive of arrays .*an array of object"),
        ({"ids": np.array([1, 2, 3, 4])}, "has ids of int64; they must be strings"),
        ({"ids": np.array(["a", "b", "c"])}, "has 4 rows and 3 ids; give each row its document's id"),
        ({"ids": np.array(["a", "b", "c", "a"])}, "row 3 has the id 'a' of one before it"),
        ({"ids": np.array(["a", "b", "", "d"])}, "row 2 has an empty id"),
        ({"ids": np.array(["a", "b", "\ud800", "d"])}, "has ids from 0 on that are not valid Unicode"),
        ({"ids": np.array([0x7F000000] * 4, "<u4").view("<U1")}, "has ids from 0 on that are not valid Unicode"),
        ({"terms": np.array(["tea", "tea", "milk"])}, "names a term twice; each column needs its own"),
        ({"terms": np.array(["tea", "milk"])}, "term 2 is outside the vocabulary of 2 terms"),
        ({"indptr": np.array([0, 2, 1, 4, 5])}, "indptr does not cut 5 entries into rows"),
        ({"indptr": np.array([0.0, 2, 4, 4, 5])}, "indptr have dtype float64"),
        ({"data": np.array([1.0, 2.0])}, r"there are 5 terms but weights of shape \(2,\)"),
        ({"data": np.array([1, 2, 3, np.nan, 5.0])}, "weight nan of term 0 cannot be scored"),
        ({"data": np.array([1, 2, 3, 4, -5.0])}, "weight -5.0 of term 0 cannot be scored"),
        ({"indices": np.array([0, 1, 2, 0, -1])}, "term -1 is outside the vocabulary of 3 terms"),
        ({"indices": np.array([0, 1, 2, 0, 2**32])}, "term 4294967296 is outside the vocabulary"),
        ({"indices": np.array([[0, 1, 2, 0, 0]])}, "is no whole archive of arrays"),
        ({"indices": np.array([1, 1, 2, 0, 0])}, "names a term twice in the vector of 'a'"),
    ],
)  # fmt: skip
def test_a_matrix_that_cannot_be_is_named(tmp_path, changes, message):
    np.savez(tmp_path / "c.npz", **csr(**changes))
    with pytest.raises(CorpusError, match=message) as refused:
        as_dict(read_vectors(tmp_path / "c.npz"))
    assert str(refused.value).startswith(str(tmp_path / "c.npz"))


def test_an_archive_that_is_damaged_or_lies_is_named(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, **csr())
    whole = buffer.getvalue()
    for data in (b"", b"PK", whole[:-30], whole.replace(b"70", b"71", 1)[: len(whole) // 2]):
        with pytest.raises(CorpusError, match=r"c.npz is no whole archive of arrays"):
            read_vectors(write(tmp_path / "c.npz", data))
    flipped = bytearray(whole)
    flipped[whole.index(np.float64(70_000.0).tobytes())] ^= 1
    with pytest.raises(
        CorpusError, match=r"is no whole archive of arrays \(BadZipFile: Bad CRC-32 for file 'data.npy'\)"
    ):
        read_vectors(write(tmp_path / "c.npz", bytes(flipped)))
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:  # a header that promises a trillion numbers
        for name, array in csr().items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0))
            archive.writestr(f"{name}.npy", member.getvalue().replace(b"(5,)", b"(999999999999,)"))
    with pytest.raises(CorpusError, match=r"indptr.npy is not as long as it says"):
        read_vectors(tmp_path / "c.npz")


@pytest.mark.parametrize("source", ["nowhere.jsonl", "x" * 5_000, "c.txt", "c.npz.gz", "", "a\0b"])
def test_a_source_that_is_none_is_named(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    for name in ("c.txt", "c.npz.gz"):
        write(tmp_path / name, b"x")
    with pytest.raises(CorpusError, match=r"give a \.jsonl or \.ciff file"):
        read_vectors(source)
    with pytest.raises(CorpusError, match="vectors is int 7; give a path, or a mapping"):
        read_vectors(7)
    with pytest.raises(CorpusError, match="the vector of 7 has no string for its id"):
        read_vectors({7: {}})
    with pytest.raises(CorpusError, match="the vector of 'a' has the weight 'x' of the term 'tea'"):
        read_vectors({"a": {"tea": "x"}})


def test_real_encoded_queries_rank_as_their_weights_say(data_folder):
    """SPLADE-v3 queries as Anserini writes them, found among vectors made of queries."""
    folder = data_folder("splade-encoded-queries")
    with gzip.open(folder / "topics.dl20.splade-v3.tsv.gz", "rt") as file:
        topics = dict(line.rstrip("\n").split("\t") for line in file)
    weights = {
        topic: {word: words.split().count(word) for word in set(words.split())} for topic, words in topics.items()
    }
    documents = [Document(topic, vector=vector) for topic, vector in weights.items()]
    retriever = Retriever.from_pretrained("vectors", impacts="f32").index(documents, progress=False)
    for topic in list(topics)[:20]:
        scores = {
            other: sum(weight * weights[other].get(term, 0) for term, weight in weights[topic].items())
            for other in topics
        }
        expected = sorted((other for other in topics if scores[other]), key=lambda other: -scores[other])[:10]
        found = retriever.search(topics[topic])
        assert found == retriever.search(weights[topic])
        assert [hit.score for hit in found] == [float(scores[other]) for other in expected]  # whole numbers: exact
        assert found[0].doc_id == expected[0]
