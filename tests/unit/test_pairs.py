"""Training sets: what a recipe may say, what becomes of sources together, what a set on disk is."""

import gzip
import hashlib
import json
from random import Random

import pytest
from conftest import ROOT
from pairs_for_tests import TEXT, corpus, jsonl, judged, passages, words

from index.errors import CorpusError, StorageError, WinnowError
from retrieval.training.sparse import pairs as pairs_module
from retrieval.training.sparse.examples import Examples
from retrieval.training.sparse.pair_recipe import PairRecipe, Source
from retrieval.training.sparse.pairs import PairSet
from winnow.cli import main


def build(data, *sources, seed=0):
    recipe = PairRecipe(
        tuple(Source(**{"name": f"s{number}", **source}) for number, source in enumerate(sources)), seed
    )
    return PairSet.build(recipe, data, progress=False)


def test_documents_and_queries_are_named_after_their_source(tmp_path):
    corpus(tmp_path / "x", ("1", "Title one", words(10)))
    jsonl(tmp_path / "y.jsonl", [{"id": "1", "question": "Why?", "answer": words(10, "v")}])
    pairs = build(
        tmp_path,
        {"kind": "title-abstract", "path": "x", "name": "a"},
        {"kind": "question-answer", "path": "y.jsonl", "name": "b"},
    )
    assert pairs.documents == {"a-1": ("", words(10)), "b-1": ("", words(10, "v"))}
    assert pairs.queries == {"a-1-q0": "Title one", "b-1-q0": "Why?"}
    assert list(pairs.split("train")) == [("a-1-q0", "a-1"), ("b-1-q0", "b-1")]


def test_short_documents_and_those_with_the_text_of_another_are_left_out_and_counted(tmp_path):
    corpus(
        tmp_path / "x",
        ("1", "a", words(10)),
        ("2", "b", words(9)),
        ("3", "c", words(10).upper()),
        ("4", "d", words(11)),
    )
    corpus(tmp_path / "y", ("5", "e", words(11)), ("6", "f", words(12)))
    pairs = build(tmp_path, {"kind": "title-abstract", "path": "x"}, {"kind": "title-abstract", "path": "y"})
    assert list(pairs.documents) == ["s0-1", "s0-4", "s1-6"]
    counts = pairs.counts["s0"]
    assert (counts.records, counts.documents, counts.queries, counts.short, counts.same_text) == (4, 2, 2, 1, 1)
    assert pairs.counts["s1"].same_text == 1


def test_a_query_with_several_documents_is_one_query_and_held_out_whole(tmp_path):
    documents = [(name, name.upper(), words(10, name)) for name in "abcdef"]
    judgments = [
        ("1", "a", 1),
        ("1", "b", 1),
        ("2", "b", 1),
        ("3", "c", 1),
        ("4", "d", 1),
        ("5", "e", 1),
        ("6", "f", 1),
    ]
    judged(tmp_path / "x", documents, {str(i): f"query {i}" for i in range(1, 7)}, train=judgments)
    pairs = build(tmp_path, {"kind": "judged", "path": "x", "dev": 3}, seed=1)
    assert pairs.relevant["s0-a-q0"] == ["s0-a", "s0-b"]
    assert list(pairs.queries) == ["s0-a-q0", "s0-b-q1", "s0-c-q0", "s0-d-q0", "s0-e-q0", "s0-f-q0"]
    train, dev = (list(pairs.split(name)) for name in ("train", "dev"))
    assert {query for query, _ in train} & {query for query, _ in dev} == set()
    assert {document for _, document in train} & pairs.held_out == set()
    assert sorted(train + dev) == sorted((query, one) for query, some in pairs.relevant.items() for one in some)
    assert len(pairs.held_out) == 3


def test_documents_with_one_title_are_held_out_together(tmp_path):
    documents = [(f"{name}{i}", name, words(10, f"{name}{i}")) for i in range(3) for name in "abcd"]
    judged(
        tmp_path / "x",
        documents,
        {one: f"query {one}" for one, *_ in documents},
        train=[(d, d, 1) for d, *_ in documents],
    )
    for seed in range(5):
        pairs = build(tmp_path, {"kind": "judged", "path": "x", "dev": 2}, seed=seed)
        assert len(pairs.held_out) == 6
        assert len({document[:-1] for document in pairs.held_out}) == 2


def test_holding_out_changes_nothing_else(tmp_path):
    corpus(tmp_path / "x", *((str(i), f"t{i}", words(12, f"{i}-")) for i in range(30)))
    source = {"kind": "crops", "path": "x"}
    without, held = build(tmp_path, source), build(tmp_path, {**source, "dev": 4})
    assert (without.documents, without.queries) == (held.documents, held.queries)
    assert without.held_out == set()
    assert held.held_out == set(Random(1).sample([f"s0-{i}" for i in range(30)], 4))  # a stream of its own, of seed + 1


def test_of_records_with_one_id_the_last_counts_where_the_recipe_says_so(tmp_path):
    answers = [("1", "first?", TEXT), ("2", "other?", words(10)), ("1", "last?", words(12)), ("1", "short?", "no")]
    jsonl(tmp_path / "x.jsonl", [{"id": i, "question": q, "answer": a} for i, q, a in answers])
    source = {"kind": "question-answer", "path": "x.jsonl", "cloze": 1}
    pairs = build(tmp_path, {**source, "repeated_ids": "last"})
    assert pairs.documents == {"s0-1": ("", words(12)), "s0-2": ("", words(10))}
    assert pairs.queries == {"s0-1-q0": "last?", "s0-2-q0": "other?"}  # none of the first one's sentence
    assert pairs.relevant == {"s0-1-q0": ["s0-1"], "s0-2-q0": ["s0-2"]}
    assert pairs.counts["s0"].replaced == 1
    with pytest.raises(CorpusError, match=r"x.jsonl:3 has the id '1' of .*x.jsonl:1; give each record its own id"):
        build(tmp_path, source)


def test_a_set_is_written_as_a_beir_folder_that_says_where_it_is_from(tmp_path):
    corpus(tmp_path / "data" / "x", *((str(i), f"t{i}", words(12, f"{i}-")) for i in range(9)))
    source = {"kind": "title-abstract", "path": "x", "dev": 2, "licence": "CC0"}
    build(tmp_path / "data", source).write(tmp_path / "out", tmp_path / "data")
    train, dev = (Examples.read(tmp_path / "out", split) for split in ("train", "dev"))
    assert (len(train), len(dev), len(train.documents)) == (7, 2, 9)
    assert all(train.queries[i] == f"t{train.document_ids[train.positives[i][0]][3:]}" for i in range(7))
    said = json.loads((tmp_path / "out" / "sources.json").read_bytes())
    assert (said["seed"], said["documents"], said["queries"]) == (0, 9, {"train": 7, "dev": 2})
    (of_source,) = said["sources"]
    assert (of_source["kind"], of_source["licence"], of_source["counts"]["held_out"]) == ("title-abstract", "CC0", 2)
    read = (tmp_path / "data" / "x" / "corpus.jsonl").read_bytes()
    assert of_source["files"] == {"x/corpus.jsonl": hashlib.sha256(read).hexdigest()}
    assert set(said["files"]) == {"corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv"}
    for name, digest in said["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    corpus(tmp_path / "x", *((str(i), f"t{i}", f"{words(9, f'{i}-')}. {TEXT}") for i in range(20)))
    sources = [{"kind": "inverse-cloze", "path": "x", "dev": 3, "limit": 15}, {"kind": "crops", "path": "x"}]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(tmp_path, *sources, seed=seed).write(tmp_path / name, tmp_path)
    files = ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv", "sources.json"]
    same, other = ([(tmp_path / "a" / f).read_bytes() == (tmp_path / n / f).read_bytes() for f in files] for n in "bc")
    assert same == [True] * 5
    assert other == [False] * 5


def test_a_set_is_whole_or_not_there(tmp_path, monkeypatch):
    corpus(tmp_path / "x", ("1", "a", words(10)))
    pairs = build(tmp_path, {"kind": "title-abstract", "path": "x"})

    def fails(path, data):
        raise StorageError("no room")

    monkeypatch.setattr(pairs_module, "write_file", fails)
    with pytest.raises(StorageError, match="no room"):
        pairs.write(tmp_path / "out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(WinnowError, match="out is not an empty folder; give a new one"):
        pairs.write(tmp_path / "out", tmp_path)
    assert (tmp_path / "out" / "mine.txt").read_text() == "x"


# what is refused


@pytest.mark.parametrize(
    ("kind", "documents", "message"),
    [
        (
            "title-abstract",
            [("1", "t", words(10)), ("2", "[].", words(10))],
            "corpus.jsonl:2 gives a document with an empty query",
        ),
        ("title-abstract", [("1", "t", " ")], "corpus.jsonl:1 gives a query without a document"),
        (
            "title-abstract",
            [("1", "t", words(10)), ("1", "u", "x")],
            "corpus.jsonl:2 has the id '1' of an earlier line",
        ),
        (
            "title-abstract",
            [("1", "t", "too short")],
            "x gives no pair: of 1 records 0 have nothing to ask, 1 are shorter",
        ),
        ("body-first", [("1", "t", "One sentence")], "x gives no pair: of 1 records 1 have nothing to ask"),
        ("crops", [], "x gives no pair: of 0 records"),
    ],
)
def test_what_teaches_nothing_is_told(tmp_path, kind, documents, message):
    corpus(tmp_path / "x", *documents)
    with pytest.raises(WinnowError, match=message):
        build(tmp_path, {"kind": kind, "path": "x"})


@pytest.mark.parametrize(
    "record",
    [
        {"id": "1", "question": "q"},
        {"id": 1, "question": "q", "answer": "a"},
        {"question": "q", "answer": "a"},
        ["q", "a"],
    ],
)
def test_a_record_that_is_no_question_with_an_answer_is_told(tmp_path, record):
    jsonl(tmp_path / "x.jsonl", [record])
    with pytest.raises(CorpusError, match=r"x.jsonl:1 holds .*; it must have an id, a question and an answer"):
        passages("question-answer", tmp_path, "x.jsonl")


def test_judgments_of_what_is_not_there_are_told(tmp_path):
    judged(tmp_path / "x", [("a", "", "1")], {"1": "one"}, train=[("1", "a", 1), ("1", "b", 1)], dev=[("2", "a", 1)])
    with pytest.raises(CorpusError, match=r"train.tsv:3 judges document 'b', which corpus.jsonl lacks"):
        passages("judged", tmp_path)
    with pytest.raises(CorpusError, match=r"dev.tsv:2 judges the query '2', which queries.jsonl lacks"):
        passages("judged", tmp_path, split="dev")


def test_holding_out_too_much_is_told(tmp_path):
    documents = [("a", "A", words(10, "a")), ("b", "B", words(10, "b"))]
    judged(tmp_path / "x", documents, {"1": "one"}, train=[("1", "a", 1), ("1", "b", 1)])
    with pytest.raises(WinnowError, match="x is to give 2 held-out documents or titles, and has 2"):
        build(tmp_path, {"kind": "judged", "path": "x", "dev": 2})
    with pytest.raises(WinnowError, match="every query has a document that is held out"):
        build(tmp_path, {"kind": "judged", "path": "x", "dev": 1})


def test_sources_whose_ids_clash_are_told(tmp_path):
    corpus(tmp_path / "x", ("b-1", "a", words(10)))
    corpus(tmp_path / "y", ("1", "a", words(11)))
    sources = [{"kind": "title-abstract", "path": path, "name": name} for path, name in (("x", "a"), ("y", "a-b"))]
    with pytest.raises(CorpusError, match=r"y/corpus.jsonl:1 becomes document 'a-b-1', which another source has"):
        build(tmp_path, *sources)


A_SOURCE = '[[source]]\nkind = "judged"\npath = "x"\n'


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("seed = ", "is not valid TOML"),
        ("seed = 1", r"has no \[\[source\]\]; list at least one"),
        ("source = []", r"has no \[\[source\]\]"),
        ("source = [1]", "source 1 of .* has the kind None"),
        ("seed = -1\n" + A_SOURCE, "has the seed -1; it must be a whole number"),
        ("seed = true\n" + A_SOURCE, "has the seed True"),
        ("size = 1\n" + A_SOURCE, "has 'size'; it may have a seed"),
        ('[[source]]\nkind = "poems"\npath = "x"', "source 1 of .* has the kind 'poems'; it must be one of judged, title-abstract"),
        ('[[source]]\nkind = "crops"', "source 1 of .* has no path"),
        (A_SOURCE + "cloze = 1", "source 1 of .* has 'cloze'; one of kind judged may have dev, exclude-titles-of"),
        (A_SOURCE + "limit = 0", "has limit = 0; it must be a whole number above 0"),
        (A_SOURCE + "dev = 1.5", "has dev = 1.5; it must be a whole number, 0 or more"),
        (A_SOURCE + 'name = ""', "has name = ''; it must be a text"),
        (A_SOURCE + "split = 3", "has split = 3; it must be a text"),
        ('[[source]]\nkind = "inverse-cloze"\npath = "x"\nkept = 2', "has kept = 2; it must be a number from 0 to 1"),
        ('[[source]]\nkind = "question-answer"\npath = "x"\nrepeated-ids = "first"', "has repeated-ids = 'first'; it must be refuse or last"),
        (A_SOURCE + A_SOURCE, "has two sources with the name 'x'; give each its own"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_is_told(tmp_path, written, message):
    (tmp_path / "r.toml").write_text(written)
    with pytest.raises(WinnowError, match=message):
        PairRecipe.read(tmp_path / "r.toml")


def test_files_that_are_not_there_are_told(tmp_path):
    with pytest.raises(WinnowError, match=r"none.toml does not exist; give a TOML file"):
        PairRecipe.read(tmp_path / "none.toml")
    with pytest.raises(CorpusError, match=r"x does not exist; give a BEIR folder or a .jsonl file"):
        passages("crops", tmp_path)


# the command and the recipe of the model that ships


def test_the_command_makes_a_set_and_says_what_became_of_the_records(tmp_path, capsys):
    corpus(tmp_path / "data" / "x", *((str(i), f"t{i}", words(12, f"{i}-")) for i in range(6)), ("s", "short", "no"))
    packed = gzip.compress(b'{"id": "1", "question": "Why?", "answer": "%s"}\n' % words(10).encode())
    (tmp_path / "data" / "qa.jsonl.gz").write_bytes(packed)
    (tmp_path / "r.toml").write_text(
        'seed = 3\n[[source]]\nkind = "title-abstract"\npath = "x"\ndev = 2\n'
        '[[source]]\nkind = "question-answer"\npath = "qa.jsonl.gz"\n'
    )
    command = ["pairs", str(tmp_path / "r.toml"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*command, "--no-progress"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "x: 6 documents, 6 queries, 2 documents held out",
        "    of 7 records; left out: 1 too short",
        "qa: 1 documents, 1 queries, 0 documents held out",
        "    of 1 records",
        f"{tmp_path / 'out'}: 7 documents, 5 queries, 2 held out",
    ]
    assert main(command) == 1
    assert "out is not an empty folder" in capsys.readouterr().err


def test_the_recipe_of_winnow_mini_gives_the_set_that_it_was_trained_on(data_folder, tmp_path):
    data = data_folder("squad2-dev").parent
    PairSet.build(PairRecipe.read(ROOT / "benchmarks" / "winnow_mini" / "pairs.toml"), data, progress=False).write(
        tmp_path / "out", data
    )
    said = json.loads((tmp_path / "out" / "sources.json").read_bytes())
    assert (said["documents"], said["queries"]) == (25_921, {"train": 48_733, "dev": 3_719})
    assert {name: digest[:12] for name, digest in said["files"].items()} == {
        "corpus.jsonl": "119658c34bd4",
        "queries.jsonl": "81ecfbe16c63",
        "qrels/train.tsv": "6a026ed903db",
        "qrels/dev.tsv": "830a4556a785",
    }
