"""Teachers of sparse encoders: what they say of a pair, and that it is computed once, kept whole, and never taken for other texts."""

import json
import warnings

import cross_encoders_for_tests as cross
import dense_for_tests as dense_models
import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch

from index.errors import CorpusError, IndexFormatError, LockedError, ModelError, WinnowError, WinnowWarning
from index.folder_writer import FolderWriter
from index.verification import find_damage
from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder
from retrieval.encoders.dense.encoder import DenseEncoder
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.neural_side import NeuralSide
from retrieval.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.training.sparse import teacher_cache
from retrieval.training.sparse.teacher_cache import KIND, TeacherError
from retrieval.training.sparse.teachers import teacher_of

pytestmark = pytest.mark.usefixtures("one_thread")

DOCUMENTS = {
    "d3": "The moon pulls the water of the sea, and the sea rises.",
    "d1": "Flour, water, salt and yeast make bread.",
    "d5": "rain in New York",
    "d2": "the tide rises with the moon",
    "d4": "an hour of rain is what the weather is",
}
QUERIES = {"q2": "moon tide", "q1": "bread and salt", "q3": "weather in New York"}
PAIRS = [("q1", "d1"), ("q1", "d3"), ("q2", "d2"), ("q3", "d5"), ("q3", "d4"), ("q2", "d2")]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(teacher_cache, "ROWS_A_PART", 2)


def splade(folder, seed=0):
    """A checkpoint that says what its activation is."""
    plain = tiny.bert(folder.with_name(f"{folder.name}-plain"), seed)
    LearnedSparseEncoder.from_pretrained(plain, activation="log1p").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of models: a splade model, a dense one of each similarity, a cross-encoder."""
    root = tmp_path_factory.mktemp("models")
    plain = dense_models.mpnet(root / "plain")
    return {
        "splade": splade(root / "splade"),
        "cosine": dense_models.dense_model(plain, root / "cosine"),
        "dot": dense_models.dense_model(plain, root / "dot", similarity_fn_name="dot"),
        "cross": cross.bert(root / "cross"),
    }


def teacher(name, cache, *, queries=QUERIES, documents=DOCUMENTS, pairs=PAIRS, **options):
    return teacher_of(
        name, queries=queries, documents=documents, pairs=lambda: pairs, cache=cache, options=options, progress=False
    )


def scores_of(asked, queries=tuple(QUERIES), documents=tuple(DOCUMENTS)):
    found = asked.scores(queries, documents)
    assert (found.dtype, tuple(found.shape)) == (torch.float32, (len(queries), len(documents)))
    return found.numpy()


def engine_scores(name, queries=QUERIES, documents=DOCUMENTS, **options):
    """What a retriever over the same documents scores, 0 for what it does not find."""
    retriever = Retriever.from_pretrained(name, **options)
    retriever.index([{"_id": doc_id, "text": text} for doc_id, text in documents.items()], progress=False)
    table = np.zeros((len(queries), len(documents)), np.float32)
    for row, text in enumerate(queries.values()):
        for hit in retriever.search(text, k=len(documents)):
            table[row, list(documents).index(hit.doc_id)] = hit.score
    return table


def folders(cache):
    return sorted(path.name for path in cache.iterdir())


def parts(cache):
    """Rows of each part, by kind."""
    (folder,) = cache.iterdir()
    manifest = json.loads((folder / "winnow.json").read_text())
    rows = {name: json.loads((folder / name / "part.json").read_text())["contents"] for name in manifest["parts"]}
    return {what: [rows[name]["rows"] for name in names] for what, names in manifest["contents"]["parts"].items()}


@pytest.mark.parametrize("rows_a_part", [2, 4_096])
def test_bm25_teaches_what_the_engine_scores_bit_for_bit(tmp_path, monkeypatch, rows_a_part):
    monkeypatch.setattr(teacher_cache, "ROWS_A_PART", rows_a_part)
    found, expected = scores_of(teacher("bm25", tmp_path)), engine_scores("bm25")
    assert np.array_equal(found, expected)
    assert np.count_nonzero(found) == 5  # of q2 d3 and d2, of q1 d1, of q3 d5 and d4
    assert parts(tmp_path) == {"documents": [5], "queries": [2, 1] if rows_a_part == 2 else [3]}  # merged, if in parts
    batch = teacher("bm25", tmp_path).scores(["q3", "q2"], ["d5", "d2", "d5"]).numpy()
    assert np.array_equal(batch, expected[[2, 0]][:, [2, 3, 2]])


def test_a_splade_model_teaches_what_the_engine_scores_bit_for_bit(tmp_path, checkpoints):
    name = str(checkpoints["splade"])
    found = scores_of(teacher(name, tmp_path))
    assert np.array_equal(found, engine_scores(name))
    assert len(np.unique(found)) == found.size
    assert parts(tmp_path) == {"documents": [5], "queries": [2, 1]}
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("part-*"))) == 4  # those that were merged are gone


def test_weights_are_as_exact_as_is_asked_for(tmp_path, checkpoints):
    name = str(checkpoints["splade"])
    exact = scores_of(teacher(name, tmp_path, impacts="f32"))
    encoder = LearnedSparseEncoder.from_pretrained(name)
    queries = tiny.dense(encoder.encode_queries(QUERIES.values()), encoder.num_terms)
    documents = tiny.dense(encoder.encode_texts(DOCUMENTS.values()), encoder.num_terms)
    np.testing.assert_allclose(exact, queries @ documents.T, rtol=1e-5)
    assert not np.array_equal(exact, scores_of(teacher(name, tmp_path)))  # 8 bits
    assert len(folders(tmp_path)) == 2


def test_mini_weighs_queries_by_the_training_documents(tmp_path):
    found = scores_of(teacher("mini", tmp_path))
    assert np.array_equal(found, engine_scores("mini"))
    assert np.count_nonzero(found) > 5


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_dense_teacher_compares_vectors_as_its_model_says(tmp_path, checkpoints, similarity):
    name = str(checkpoints[similarity])
    encoder = DenseEncoder.from_pretrained(name)
    queries, documents = encoder.encode_queries(QUERIES.values()), encoder.encode_texts(DOCUMENTS.values())
    if similarity == "cosine":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    expected = queries @ documents.T
    assert np.abs(expected).max() > 2 or similarity == "cosine"
    found = scores_of(teacher(f"dense:{name}", tmp_path))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert parts(tmp_path) == {"documents": [2, 2, 1], "queries": [2, 1]}
    (folder,) = tmp_path.iterdir()
    kept = [np.load(path).dtype for path in folder.rglob("vectors.npy")]
    assert kept == [np.float16] * 5


def test_of_a_text_without_tokens_a_dense_teacher_knows_nothing(tmp_path, checkpoints):
    documents = {**DOCUMENTS, "empty": " "}
    asked = teacher(str(checkpoints["cosine"]), tmp_path, documents=documents)
    found = scores_of(asked, documents=tuple(documents))
    assert np.array_equal(np.isnan(found), np.array([[False] * 5 + [True]] * 3))


def test_numbers_that_float16_cannot_keep_are_told(tmp_path, checkpoints, monkeypatch):
    encode = DenseEncoder.encode_documents
    large = lambda self, documents: encode(self, documents)._replace(vectors=np.full((2, 32), 1e6, np.float32))  # noqa: E731
    monkeypatch.setattr(DenseEncoder, "encode_documents", large)
    with pytest.raises(WinnowError, match=r"numbers up to 1e\+06, float16 keeps them up to 65,504; give the option"):
        teacher(f"dense:{checkpoints['dot']}", tmp_path)
    assert folders(tmp_path) == []


def test_a_cross_encoder_knows_the_pairs_of_the_lists_alone(tmp_path, checkpoints):
    name = f"cross-encoder:{checkpoints['cross']}"
    found = scores_of(teacher(name, tmp_path))
    reranker = CrossEncoderReranker.from_pretrained(checkpoints["cross"])
    expected = np.full((3, 5), np.nan, np.float32)
    for query, document in set(PAIRS):
        row, column = list(QUERIES).index(query), list(DOCUMENTS).index(document)
        (expected[row, column],) = reranker.logits([(QUERIES[query], DOCUMENTS[document])])
    np.testing.assert_allclose(found, expected, rtol=1e-5, equal_nan=True)
    assert np.isnan(found).sum() == 10
    assert len(np.unique(found[~np.isnan(found)])) == 5
    assert parts(tmp_path) == {"pairs": [2, 2, 1]}


def test_a_cross_encoder_scores_only_pairs_that_are_new(tmp_path, checkpoints, monkeypatch):
    name, scored = f"cross-encoder:{checkpoints['cross']}", []
    before = scores_of(teacher(name, tmp_path))
    logits = CrossEncoderReranker.logits
    monkeypatch.setattr(CrossEncoderReranker, "logits", lambda self, pairs: scored.extend(pairs) or logits(self, pairs))
    new = [("q1", "d5"), ("q3", "d4")]
    after = scores_of(teacher(name, tmp_path, pairs=new))
    assert scored == [(QUERIES["q1"], DOCUMENTS["d5"])]
    is_new = np.isnan(before) & ~np.isnan(after)
    assert is_new.sum() == 1
    assert is_new[1, 2]
    assert np.array_equal(np.where(is_new, np.nan, after), before, equal_nan=True)
    with pytest.warns(WinnowWarning, match="have more than max_length = 12 tokens"):
        other_length = scores_of(teacher(name, tmp_path, max_length=12))
    assert not np.array_equal(other_length, before, equal_nan=True)
    assert len(folders(tmp_path)) == 2


def test_a_cross_encoder_that_scores_nan_is_told(tmp_path, checkpoints, monkeypatch):
    def nan(self, pairs):
        return np.full(len(pairs), np.nan, np.float32)

    monkeypatch.setattr(CrossEncoderReranker, "logits", nan)
    with pytest.raises(WinnowError, match="scores 2 of 2 pairs with NaN or infinity; give dtype=float32"):
        teacher(f"cross-encoder:{checkpoints['cross']}", tmp_path)


def forbid(monkeypatch):
    """Nothing may be encoded any more."""

    def fail(*_, **__):
        raise AssertionError("a model was used")

    monkeypatch.setattr(NeuralSide, "encode", fail)
    monkeypatch.setattr(DenseEncoder, "encode_documents", fail)
    monkeypatch.setattr(DenseEncoder, "encode_queries", fail)
    monkeypatch.setattr(BM25Encoder, "encode_documents", fail)
    monkeypatch.setattr(CrossEncoderReranker, "from_pretrained", classmethod(fail))


def names_of(checkpoints):
    return ["bm25", str(checkpoints["splade"]), f"dense:{checkpoints['dot']}", f"cross-encoder:{checkpoints['cross']}"]


@pytest.mark.parametrize("which", range(4))
def test_what_was_computed_is_not_computed_again(tmp_path, checkpoints, monkeypatch, which):
    name = names_of(checkpoints)[which]
    before = scores_of(teacher(name, tmp_path))
    stored = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    forbid(monkeypatch)
    turned = {text_id: DOCUMENTS[text_id] for text_id in reversed(DOCUMENTS)}  # the order of the ids is no matter
    assert np.array_equal(scores_of(teacher(name, tmp_path, documents=turned)), before, equal_nan=True)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == stored
    assert find_damage(next(tmp_path.iterdir())) == []


@pytest.mark.parametrize(("which", "after"), [(0, 1), (0, 3), (0, 4), (1, 2), (2, 2), (3, 1)])
def test_a_run_that_was_stopped_goes_on_with_the_part_that_was_not_whole(
    tmp_path, checkpoints, monkeypatch, which, after
):
    """Sparse documents are the commits 1 to 3, then merged."""
    name = names_of(checkpoints)[which]
    whole = scores_of(teacher(name, tmp_path / "whole"))
    commit, commits = FolderWriter.commit, []

    def stopping(self, *arguments):
        commits.append(1)
        if len(commits) == after + 1:
            raise KeyboardInterrupt
        return commit(self, *arguments)

    monkeypatch.setattr(FolderWriter, "commit", stopping)
    with pytest.raises(KeyboardInterrupt):
        teacher(name, tmp_path / "cut")
    kind = "pairs" if which == 3 else "documents"
    before = {kind: {1: [2], 2: [2, 2], 3: [2, 2, 1], 4: [5]}[after]}
    assert parts(tmp_path / "cut") == before
    assert np.array_equal(scores_of(teacher(name, tmp_path / "cut")), whole, equal_nan=True)
    assert len(commits) == (3 if which == 3 else 5 if which == 2 else 6) + 1
    assert parts(tmp_path / "cut") == parts(tmp_path / "whole")


@pytest.mark.parametrize("which", [1, 2, 3])
def test_another_machine_needs_no_model_for_what_is_kept(tmp_path, checkpoints, monkeypatch, which):
    name, path = names_of(checkpoints)[which], checkpoints[("bm25", "splade", "dot", "cross")[which]]
    before = scores_of(teacher(name, tmp_path / "cache"))
    forbid(monkeypatch)
    path.rename(f"{path}-elsewhere")
    try:
        with pytest.warns(WinnowWarning, match=r"is neither a folder .*; what .* keeps of it is taken"):
            found = scores_of(teacher(name, tmp_path / "cache", device="cpu"))
        assert np.array_equal(found, before, equal_nan=True)
        with pytest.raises(ModelError, match=r"^'.*' is neither a folder"):  # of which nothing is kept
            teacher(name, tmp_path / "cache", max_length=9)
        others = {**DOCUMENTS, "d1": "other"}
        with pytest.raises(TeacherError, match=r"for other texts of 1 documents, for example 'd1'; compute it where"):
            teacher(name, tmp_path / "cache", documents=others)
        if which == 3:
            with (
                pytest.warns(WinnowWarning),
                pytest.raises(TeacherError, match=r"has not all of what .* is to teach, and the model cannot be had"),
            ):
                teacher(name, tmp_path / "cache", pairs=[("q1", "d5")])
    finally:
        path.with_name(f"{path.name}-elsewhere").rename(path)


def test_a_model_is_known_by_its_weights_and_not_by_its_place(tmp_path, checkpoints, monkeypatch):
    folder = splade(tmp_path / "here")
    before = scores_of(teacher(str(folder), tmp_path / "cache"))
    (tmp_path / "moved").mkdir()
    folder.rename(tmp_path / "moved" / "here")
    with monkeypatch.context() as patch:
        forbid(patch)
        assert np.array_equal(scores_of(teacher(str(tmp_path / "moved" / "here"), tmp_path / "cache")), before)
    splade(tmp_path / "here", seed=1)
    assert not np.array_equal(scores_of(teacher(str(folder), tmp_path / "cache")), before)
    assert len(folders(tmp_path / "cache")) == 2


def test_other_texts_of_the_same_ids_are_told_and_computed_anew(tmp_path):
    teacher("bm25", tmp_path)
    documents = {**DOCUMENTS, "d2": "bread of salt", "d5": "snow"}
    with pytest.warns(
        WinnowWarning, match=r"bm25's in bm25-\w+ for other texts of 2 documents, for example 'd2'; bm25 is"
    ):
        found = scores_of(teacher("bm25", tmp_path, documents=documents))
    assert np.array_equal(found, engine_scores("bm25", documents=documents))
    queries = {**QUERIES, "q3": "snow"}
    with pytest.warns(WinnowWarning, match=r"for other texts of 1 queries, for example 'q3'"):
        teacher("bm25", tmp_path, queries=queries)
    assert len(folders(tmp_path)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        teacher("bm25", tmp_path, documents=documents)  # there by now
        teacher("bm25", tmp_path, documents={**DOCUMENTS, "more": "text"})  # nothing changed but what is new


def test_a_damaged_byte_is_told(tmp_path, checkpoints):
    name = f"dense:{checkpoints['dot']}"
    teacher(name, tmp_path)
    path = next(tmp_path.rglob("vectors.npy"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        IndexFormatError, match=r"vectors.npy does not match its checksum; remove .*, and what is in it is"
    ):
        teacher(name, tmp_path)


def test_two_processes_do_not_compute_the_same(tmp_path, checkpoints):
    name = f"cross-encoder:{checkpoints['cross']}"
    teacher(name, tmp_path)
    with FolderWriter(next(tmp_path.iterdir()), KIND):
        assert teacher(name, tmp_path)  # reading is free
        with pytest.raises(LockedError):
            teacher(name, tmp_path, pairs=[("q1", "d5")])


def test_ids_that_a_teacher_does_not_know_are_told(tmp_path, checkpoints):
    for name in names_of(checkpoints):
        asked = teacher(name, tmp_path)
        with pytest.raises(
            TeacherError, match="does not know 2 of 3 documents, for example 'x'; make the teacher with"
        ):
            asked.scores(["q1"], ["d1", "x", "y"])
        with pytest.raises(TeacherError, match="does not know 1 of 1 queries, for example 'd1'"):
            asked.scores(["d1"], ["d1"])
    with pytest.raises(TeacherError, match="does not know 1 of 2 documents, for example 'd9'"):
        teacher(f"cross-encoder:{checkpoints['cross']}", tmp_path, pairs=[("q1", "d1"), ("q1", "d9")])


def score_file(path, records):
    if path.suffix == ".tsv":
        path.write_text("".join("\t".join(map(str, record)) + "\n" for record in records))
    else:
        names = ("query_id", "document_id", "score")
        path.write_text("".join(json.dumps(dict(zip(names, record, strict=False))) + "\n" for record in records))
    return f"scores:{path}"


@pytest.mark.parametrize("ending", ["jsonl", "tsv"])
def test_a_file_of_scores_teaches_its_pairs(tmp_path, ending):
    records = [("q2", "d4", -1.5), ("q1", "d1", 7), ("q2", "d2", 0)]
    if ending == "tsv":
        records.insert(0, ("query_id", "document_id", "score"))
    name = score_file(tmp_path / f"scores.{ending}", records)
    asked = teacher(name, tmp_path)
    expected = [[np.nan, -1.5, 0], [7, np.nan, np.nan]]
    found = asked.scores(["q2", "q1"], ["d1", "d4", "d2"]).numpy()
    assert np.array_equal(found, np.array(expected, np.float32), equal_nan=True)
    assert asked.name == name


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        ([("q1", "d1", 1), ("q1", "d1", 2)], CorpusError, r"s.jsonl:2 scores 'q1' with 'd1' as a line before it does"),
        ([("q1", "d1", 1), ("q9", "d1", 1), ("q8", "d1", 1)], TeacherError, r"scores of 2 queries .* the 3 of .* 'q9'"),
        ([("q1", "d1", 1), ("q1", "d9", 1)], TeacherError, r"scores of 1 documents that are not among the 5 .* 'd9'"),
        ([("q1", "d5", 1)], TeacherError, r"has 1 scores, of none of the 6 pairs to be learned, for example \('q1', 'd1'\)"),
        ([], TeacherError, r"has 0 scores, of none of the 6 pairs"),
        ([("q1", "d1")], CorpusError, r"s.jsonl:1 has the score None; it must be a finite number"),
        ([("q1", "d1", "3")], CorpusError, r"s.jsonl:1 has the score '3'; it must be a finite number"),
        ([("q1", "d1", True)], CorpusError, r"the score True; it must be a finite number"),
        ([("q1", "d1", 10**400)], CorpusError, r"the score 10000.*; it must be a finite number"),
        ([("q1", "", 3)], CorpusError, r"s.jsonl:1 has the document_id ''; it must be a string that is not empty"),
        ([(1, "d1", 3)], CorpusError, r"s.jsonl:1 has the query_id 1; it must be a string"),
    ],
)  # fmt: skip
def test_a_file_of_scores_that_does_not_fit_is_told(tmp_path, records, error, message):
    with pytest.raises(error, match=message):
        teacher(score_file(tmp_path / "s.jsonl", records), tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", r"s.tsv:1 has 2 columns; a line of scores has query_id, document_id, score"),
        ("q1\td1\tnan", r"s.tsv:1 has the score nan; it must be a finite number"),
        ("q1\td1\tgood", r"s.tsv:1 has the score 'good'; it must be a finite number"),
    ],
)
def test_a_table_of_scores_that_cannot_be_read_is_told(tmp_path, line, message):
    (tmp_path / "s.tsv").write_text(line + "\n")
    with pytest.raises(CorpusError, match=message):
        teacher(f"scores:{tmp_path / 's.tsv'}", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scores:none.jsonl", {}, r"'none.jsonl' is no .jsonl or .tsv file"),
        ("scores:none.jsonl", {"depth": 1}, r"scores:none.jsonl is a file, which has no options; leave depth out"),
        ("bm25", {"k1": 1}, r"bm25 has no options; leave k1 out"),
        ("vectors", {}, r"vectors encodes no text, so it teaches nothing; give a model"),
        ("nonsense", {}, r"^'nonsense' is neither a folder"),
        ("minilm", {"what": 1}, r"there is no model option 'what'"),
        ("cross-encoder:", {}, r"the teacher cross-encoder: names no model"),
        ("cross-encoder:x", {"what": 1}, r"cross-encoder has no option what"),
        ("cross-encoder:x", {"activation": "sigmoid"}, r"activation='sigmoid'; a teacher's scores are logits"),
        ("bm25", {"k1": object()}, r"the options of bm25 are .*; give texts, numbers, true or false"),
    ],
)
def test_what_is_no_teacher_is_told(tmp_path, name, options, message):
    with pytest.raises(WinnowError, match=message):
        teacher(name, tmp_path, **options)


@pytest.mark.parametrize(
    ("side", "texts", "message"),
    [
        ("queries", {}, "the teachers are given no queries; give at least one"),
        ("documents", {"": "text"}, "one of the documents has an empty id"),
        ("documents", {"d1": None}, r"the text of 'd1' is NoneType None; it must be a string"),
        ("queries", {3: "text"}, r"an id of the queries is int 3; it must be a string"),
        ("queries", {"q1": "\ud800"}, r"the text of 'q1' '\\ud800' is not valid Unicode"),
    ],
)
def test_texts_that_are_none_are_told(tmp_path, side, texts, message):
    with pytest.raises(WinnowError, match=message):
        teacher("bm25", tmp_path, **{side: texts})


def test_parts_stay_few_however_many_rows_there_are(monkeypatch):
    monkeypatch.setattr(teacher_cache, "ROWS_A_PART", 4_096)
    parts, rows = 0, 0
    while rows < 10_000_000:
        parts, rows = parts + 1, rows + teacher_cache.part_size(rows)
    assert parts < 36  # each of a sparse teacher's keeps a dozen files open
    assert teacher_cache.part_size(20_000) == 4_096


def test_the_bar_counts_texts_and_one_warning_tells_of_all_that_were_cut(tmp_path, checkpoints, capsys, monkeypatch):
    monkeypatch.setattr("retrieval.progress.SECONDS_UNTIL_SHOWN", 0.0)
    documents = {**DOCUMENTS, "long1": "rain " * 60, "long2": "bread " * 60, "z": "moon"}
    with pytest.warns(WinnowWarning, match="2 of 4 texts have more than max_length = 40 tokens") as told:
        teacher_of(str(checkpoints["splade"]), queries=QUERIES, documents=documents, pairs=list, cache=tmp_path)
    assert len(told) == 1  # of two parts with a long text each
    shown = capsys.readouterr().err
    assert "reads: 100% (8/8 documents" in shown
    assert "reads: 100% (3/3 queries" in shown
