import copy
import hashlib
import json
import tracemalloc

import numpy as np
import pytest
from dense_vectors_for_tests import FORMS, clumped, clumped_without, same

from index import files
from index.dense.codes import Codes, Stored
from index.dense.index import KEYS, DenseIndex
from index.dense.options import DenseIndexOptions
from index.errors import IndexFormatError, StorageError, WinnowError
from index.files import save_array
from index.inverted import InvertedIndex
from index.storage import damage

COUNT, WITHOUT = 1_500, np.array([3, 1_499], np.int32)


@pytest.fixture(scope="module")
def vectors():
    return clumped_without(COUNT, WITHOUT)


@pytest.fixture(scope="module")
def queries():
    return clumped(9, seed=1)


def build(vectors, factory, similarity="cosine"):
    return DenseIndex.build(vectors, DenseIndexOptions(32, similarity, factory), without=WITHOUT, progress=False)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "part-000001").iterdir())}


@pytest.mark.parametrize("form", ["Flat", *FORMS])
def test_an_opened_index_is_the_one_saved_and_two_builds_are_equal_files(tmp_path, vectors, queries, form):
    index = build(vectors, form)
    index.save(tmp_path / "one")
    opened = DenseIndex.open(tmp_path / "one", verify="full")
    assert opened.description() == index.description()
    assert (opened.method, opened.nbytes, opened.options) == (index.method, index.nbytes, index.options)
    assert same(opened.search_batch(queries), index.search_batch(queries))
    allowed = np.arange(COUNT) % 3 > 0
    assert same(opened.search_batch(queries, allowed=allowed), index.search_batch(queries, allowed=allowed))
    assert np.array_equal(opened.stored_rows([3, 5]), index.stored_rows([3, 5]))
    (tmp_path / "parts").mkdir()
    DenseIndex.build_into(tmp_path / "parts", vectors, index.options, without=WITHOUT, progress=False)
    build(vectors, form).save(tmp_path / "two")
    opened.save(tmp_path / "three")
    one, two, three = (files_of(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two == three
    assert set(one) == {"winnow-part", "part.json", "vectors.npy", "without.npy"} | (
        {"codes.faiss"} if form != "Flat" else set()
    )
    parts = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    assert all(parts[name] == one[name] for name in parts)


def test_codes_do_not_depend_on_the_threads_that_faiss_may_use(vectors):
    import faiss

    before = faiss.omp_get_max_threads()
    found = set()
    try:
        for threads in (1, 4):
            faiss.omp_set_num_threads(threads)
            found |= {(form, build(vectors, form).codes.stored()) for form in ("IVF16,PQ8x4", "OPQ8,PQ8x4", "HNSW16")}
    finally:
        faiss.omp_set_num_threads(before)
    assert len(found) == 3


@pytest.mark.parametrize("form", ["Flat", "SQ8", "IVF16,PQ16x4fs", "HNSW16", "RR,RaBitQ"])
def test_every_flipped_bit_is_found(tmp_path, vectors, form):
    build(vectors, form).save(tmp_path / "index")
    part = tmp_path / "index" / "part-000001"
    rng = np.random.default_rng(0)
    for name in ("vectors.npy", *(["codes.faiss"] if form != "Flat" else [])):
        whole = (part / name).read_bytes()
        places = [0, 4, 130, len(whole) - 1, *rng.integers(0, len(whole), 12)]
        for place in places:
            bad = bytearray(whole)
            bad[place] ^= 1 << int(rng.integers(8))
            (part / name).write_bytes(bad)
            assert [found.file for found in damage(tmp_path / "index", "full")] == [name]
            with pytest.raises(IndexFormatError):
                DenseIndex.open(tmp_path / "index", verify="full")
            if name == "codes.faiss":  # FAISS never sees them, at a quick open either
                with pytest.raises(IndexFormatError):
                    DenseIndex.open(tmp_path / "index")
        for shorter in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
            (part / name).write_bytes(shorter)
            with pytest.raises(IndexFormatError):
                DenseIndex.open(tmp_path / "index")
        (part / name).unlink()
        with pytest.raises(IndexFormatError):
            DenseIndex.open(tmp_path / "index")
        (part / name).write_bytes(whole)
    DenseIndex.open(tmp_path / "index", verify="full")


def test_codes_of_another_kind_are_refused_though_their_checksum_is_right(tmp_path, vectors):
    others = {
        "SQ8": "SQ4 IVF16,SQ8 SQfp16 PQ8x4",
        "HNSW16": "SQ8 HNSW8",
        "PQ8x4": "PQ16x4fs PQ4x8 PQ16x4",
        "SQfp16": "SQbf16",
    }
    others |= {
        "RaBitQ2": "RaBitQ4 RaBitQ",
        "PCA16,SQ8": "PCAR16,Flat RR,SQ8 PCA8,SQ8",
        "IVF16,SQ8": "IVF8,SQ8 IVF16,SQ6",
    }
    pairs = [(form, other) for form in others for other in others[form].split()]
    for number, (form, other) in enumerate(pairs):
        folder = tmp_path / str(number)
        folder.mkdir()
        description = build(vectors, form).write(folder)
        stranger = build(vectors, other).codes
        description["codes"] = stranger.write(folder)._asdict()
        with pytest.raises(IndexFormatError, match="the index needs"):
            DenseIndex.read(folder, description)
    for content in (b"", b"IxSQ", b"\0" * 400, np.random.default_rng(0).bytes(4_000)):
        (folder / "codes.faiss").write_bytes(content)
        description["codes"] = {"bytes": max(1, len(content)), "sha256": hashlib.sha256(content).hexdigest()}
        with pytest.raises(IndexFormatError):
            DenseIndex.read(folder, description)


def test_limits_of_faiss_are_set_while_it_reads_and_set_back(tmp_path, vectors, monkeypatch):
    import faiss

    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    index = build(vectors, "SQ8")
    index.save(tmp_path / "index")
    seen = []
    read_index = faiss.read_index

    def watched(*arguments):
        seen.append((faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()))
        return read_index(*arguments)

    monkeypatch.setattr(faiss, "read_index", watched)
    DenseIndex.open(tmp_path / "index")
    size = index.codes.stored().bytes
    assert seen == [(size, size)]
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == before


def changed(description, path, value):
    description = copy.deepcopy(description)
    inner = description
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return description


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((("documents",), value) for value in (-1, 2**40, 1.5, None, "3", True, COUNT - 1, COUNT + 1)),
        *((("without",), value) for value in (-1, COUNT + 1, 1, None)),
        *((("factory",), value) for value in ("Flat", "SQ4,", "SQ8" * 99, None, 3, "IVF99999999,SQ8", "PQ7")),
        *((("longest",), value) for value in (-1, None, "1", float("nan"), True)),
        *((("method",), value) for value in (None, "x" * 2_000, "a\x1b[2J")),
        *((("codes",), value) for value in (None, {}, {"bytes": 1}, [])),
        *((("codes", "bytes"), value) for value in (0, -1, 2**70, None)),
        *((("codes", "sha256"), value) for value in ("", "0" * 64, None)),
        *((("training",), value) for value in (None, {}, {"vectors": 0, "share": 1.0}, {"vectors": 1, "share": 2})),
        *((("options", "dimension"), value) for value in (0, -1, 2**40, 31, 33, None, "32")),
        *((("options", "similarity"), value) for value in ("l2", None, ["cosine"])),
        (("options",), {}),
        (("options", "surprise"), 1),
        (("surprise",), 1),
    ],
)
def test_hostile_descriptions_are_refused(tmp_path, vectors, path, value):
    description = build(vectors, "SQ8").write(tmp_path)
    assert description.keys() == KEYS
    assert json.loads(json.dumps(description)) == description
    DenseIndex.read(tmp_path, description)
    with pytest.raises(IndexFormatError):
        DenseIndex.read(tmp_path, changed(description, path, value))


def test_a_description_that_is_none_is_refused(tmp_path):
    for description in (None, [], {}, {"documents": 3}):
        with pytest.raises(IndexFormatError, match="its description"):
            DenseIndex.read(tmp_path, description)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("form", ["Flat", "SQ8", "IVF16,PQ8x4", "RaBitQfs", "HNSW16"])
def test_every_invariant_is_looked_at(vectors, form, similarity):
    index = build(vectors, form, similarity)
    assert index.damage() is None

    def with_vector(doc, change):
        wrong = copy.copy(index)
        wrong.vectors = index.vectors.copy()
        row = wrong.vectors[32 * doc : 32 * doc + 32]
        row[:] = change(row)
        return wrong

    assert "document 7" in with_vector(7, lambda row: row * np.nan).damage()
    assert "document 3" in with_vector(3, lambda row: row + 1).damage()
    assert with_vector(7, lambda row: row * np.float32(1.01) + 100 * (similarity == "dot")).damage()
    if similarity == "cosine":
        assert "document 7" in with_vector(7, lambda row: row * 0).damage()
    if form == "Flat":
        return
    if form != "HNSW16":
        assert "not those of its vectors" in with_vector(7, lambda row: -row).damage()
    stranger = copy.copy(index)
    stranger.codes = DenseIndex.build(
        clumped(COUNT - 2, seed=77), DenseIndexOptions(32, similarity, form), progress=False
    ).codes
    assert stranger.damage()
    fewer = copy.copy(index)
    fewer.codes = DenseIndex.build(clumped(COUNT - 3), DenseIndexOptions(32, similarity, form), progress=False).codes
    assert "vectors have codes" in fewer.damage()


def test_documents_without_a_vector_must_be_in_order(tmp_path, vectors):
    description = build(vectors, "Flat").write(tmp_path)
    for wrong in ([5, 5], [5, 3], [-1, 5], [5, COUNT]):
        save_array(tmp_path / "without.npy", np.array(wrong, np.int32))
        with pytest.raises(IndexFormatError, match="documents without a vector"):
            DenseIndex.read(tmp_path, description)


def test_a_disk_that_is_full_is_told_as_such(tmp_path, vectors, monkeypatch):
    index = build(vectors, "SQ8")
    written = files.write_all

    def full(descriptor, data, path):
        if path.name == "codes.faiss":
            raise StorageError(f"{path} could not be written (No space left on device); make room.")
        written(descriptor, data, path)

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(StorageError, match="No space left"):
        index.save(tmp_path / "index")
    assert not (tmp_path / "index" / "winnow.json").exists()


def test_mapped_vectors_are_read_in_pieces(tmp_path):
    """More than a piece, of another type, mapped: indexed into files as the same numbers in memory are."""
    count, dimension = 60_000, 64
    mapped = np.lib.format.open_memmap(tmp_path / "given.npy", "w+", np.float16, (count, dimension))
    for first in range(0, count, 10_000):
        mapped[first : first + 10_000] = clumped(10_000, dimension, seed=first)
    mapped.flush()
    given = np.load(tmp_path / "given.npy", mmap_mode="r")
    (tmp_path / "part").mkdir()
    tracemalloc.start()
    index = DenseIndex.build_into(tmp_path / "part", given, DenseIndexOptions(dimension), progress=False)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.num_docs == count
    assert most < 4 * count * dimension * 1.8  # the mapped file itself, which tracemalloc sees, and a few pieces
    docs = np.array([0, 20_000, count - 1])
    expected = given[docs].astype(np.float32)
    assert np.allclose(index.stored_rows(docs), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_stored_says_what_the_file_is(tmp_path, vectors):
    codes = build(vectors, "SQ8").codes
    assert codes.write(tmp_path) == Codes(codes.index, codes.factory).stored()
    content = (tmp_path / "codes.faiss").read_bytes()
    assert codes.stored() == Stored(len(content), hashlib.sha256(content).hexdigest())


def test_opening_what_is_another_kind_is_refused(tmp_path):
    build(clumped(COUNT) * (~np.isin(np.arange(COUNT), WITHOUT))[:, None], "Flat").save(tmp_path / "dense")
    with pytest.raises(WinnowError, match="holds a dense-index"):
        InvertedIndex.open(tmp_path / "dense")
