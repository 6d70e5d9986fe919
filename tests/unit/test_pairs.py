"""Training pairs: what becomes of a record of each kind, what a recipe may say, what a set on disk is."""

import gzip
import hashlib
import json
from random import Random

import pytest
from conftest import ROOT

from index.errors import CorpusError, StorageError, WinnowError
from retrieval.training.sparse import pairs as pairs_module
from retrieval.training.sparse.examples import Examples
from retrieval.training.sparse.pair_recipe import Recipe, Source
from retrieval.training.sparse.pair_sources import passages_of, without_sentences
from retrieval.training.sparse.pairs import PairSet
from winnow.cli import main

SENTENCES = [f"Sentence {word} says that {word} is what it is." for word in "one two three four five six".split()]
TEXT = " ".join(SENTENCES)
PAGE = """# tar

> Archive files well.
> See also: `zip`.
> More information: <https://example.org>.

- [c]reate an archive:

`tar cf {{target.tar}} {{file1}}`

- E[x]tract an archive:

`tar xf {{source.tar}}`

- List what an archive holds:

`tar tf {{source.tar}}`
"""


def jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def corpus(folder, *documents):
    jsonl(folder / "corpus.jsonl", [{"_id": i, "title": title, "text": text} for i, title, text in documents])
    return folder


def judged(folder, documents, queries, **splits):
    corpus(folder, *documents)
    jsonl(folder / "queries.jsonl", [{"_id": one, "text": text} for one, text in queries.items()])
    (folder / "qrels").mkdir()
    for split, judgments in splits.items():
        lines = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in judgments)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


def words(number, what="w"):
    return " ".join(f"{what}{i}" for i in range(number))


def passages(kind, data, path="x", seed=0, **more):
    return list(passages_of(Source(kind, path, "x", **more), data, Random(seed)))


def asked(passage):
    return [query.text for query in passage.queries]


def build(data, *sources, seed=0):
    recipe = Recipe(tuple(Source(**{"name": f"s{number}", **source}) for number, source in enumerate(sources)), seed)
    return PairSet.build(recipe, data, progress=False)


# kinds


def test_a_title_asks_for_the_text_below_it(tmp_path):
    corpus(tmp_path / "x", ("1", "[On tea].", "Tea is green."), ("2", "Milk", "Milk is white."))
    found = passages("title-abstract", tmp_path)
    assert [(one.doc_id, one.title, one.text, asked(one)) for one in found] == [
        ("1", "", "Tea is green.", ["On tea"]),
        ("2", "", "Milk is white.", ["Milk"]),
    ]
    assert found[1].where.endswith("corpus.jsonl:2")


def test_sentences_that_are_asked_leave_the_text(tmp_path):
    corpus(tmp_path / "x", ("1", "Six", TEXT))
    (found,) = passages("title-abstract", tmp_path, cloze=2)
    title, *sentences = asked(found)
    assert title == "Six"
    assert len(set(sentences)) == 2
    assert set(sentences) < set(SENTENCES)
    assert found.text == " ".join(one for one in SENTENCES if one not in sentences)


def test_a_text_keeps_three_sentences_and_those_that_are_too_long_or_short_to_ask():
    assert without_sentences(" ".join(SENTENCES[:3]), 1, Random(0)) == (" ".join(SENTENCES[:3]), [])
    assert len(without_sentences(TEXT, 99, Random(0))[1]) == 3
    assert without_sentences("One. Two. Three. Four. Five.", 2, Random(0)) == ("One. Two. Three. Four. Five.", [])
    long = " ".join(f"S {words(40)}." for _ in range(5))
    assert without_sentences(long, 1, Random(0))[1] == []


def test_only_the_first_eight_sentences_are_asked():
    many = [f"Sentence {words(4, letter)}." for letter in "abcdefghijkl"]
    found = {without_sentences(" ".join(many), 1, Random(seed))[1][0].text for seed in range(200)}
    assert found == set(many[:8])


def test_a_question_asks_for_its_answer(tmp_path):
    jsonl(tmp_path / "x.jsonl", [{"id": "7", "question": "What is tea?", "answer": "A drink.", "source": "s"}])
    (found,) = passages("question-answer", tmp_path, "x.jsonl")
    assert (found.doc_id, found.text, asked(found)) == ("7", "A drink.", ["What is tea?"])


def test_a_page_is_asked_for_by_its_description_and_one_example_that_leave_it(tmp_path):
    corpus(tmp_path / "x", ("tar", "tar", PAGE))
    purposes = ["create an archive", "Extract an archive", "List what an archive holds"]
    commands = ["tar cf {{target.tar}} {{file1}}", "tar xf {{source.tar}}", "tar tf {{source.tar}}"]
    seen = set()
    for seed in range(20):
        (found,) = passages("command-descriptions", tmp_path, seed=seed)
        description, purpose = asked(found)
        assert description == "Archive files well."
        place = purposes.index(purpose)
        others = [f"{p}: {c}." for p, c in zip(purposes, commands, strict=True) if p != purpose]
        assert found.text == f"tar. {commands[place]} {others[0]} {others[1]}"
        seen.add(purpose)
    assert seen == set(purposes)


def test_a_page_without_examples_is_asked_for_nothing_and_a_short_description_does_not_ask(tmp_path):
    corpus(tmp_path / "x", ("a", "a", "# a\n\n> Does it.\n"), ("b", "b", "# b\n\n> Does it.\n\n- Do it:\n\n`b`\n"))
    assert [asked(one) for one in passages("command-descriptions", tmp_path)] == [[], ["Do it"]]


def test_inverse_cloze_takes_a_sentence_out_or_leaves_it(tmp_path):
    corpus(tmp_path / "x", ("1", "T", TEXT), ("2", "", "Too short. Really."))
    one, none = passages("inverse-cloze", tmp_path)
    assert (one.title, len(one.queries), none.queries) == ("T", 1, [])
    assert one.text == " ".join(sentence for sentence in SENTENCES if sentence != asked(one)[0])
    (kept, _) = passages("inverse-cloze", tmp_path, kept=1.0)
    assert kept.text == TEXT
    left = [
        asked(p)[0] in p.text
        for seed in range(200)
        for p in passages("inverse-cloze", tmp_path, seed=seed, kept=0.3)[:1]
    ]
    assert 0.15 < sum(left) / len(left) < 0.45


def test_the_first_sentence_asks_for_the_rest(tmp_path):
    corpus(tmp_path / "x", ("1", "T", TEXT), ("2", "", "Short. Rest of it all."), ("3", "", SENTENCES[0]))
    one, short, alone = passages("body-first", tmp_path)
    assert (one.text, asked(one)) == (" ".join(SENTENCES[1:]), [SENTENCES[0]])
    assert short.queries == alone.queries == []


def test_crops_are_two_spans_of_the_text(tmp_path):
    corpus(tmp_path / "x", ("1", "Head", words(200)), ("2", "", words(10)))
    whole = f"Head {words(200)}"
    lengths, overlaps = set(), set()
    for seed in range(200):
        one, none = passages("crops", tmp_path, seed=seed)
        assert none.queries == []
        spans = [one.text, asked(one)[0]]
        assert all(f" {span} " in f" {whole} " for span in spans)
        lengths |= {len(span.split()) for span in spans}
        overlaps.add(bool(set(spans[0].split()) & set(spans[1].split())))
    assert (min(lengths), max(lengths), overlaps) == (10, 100, {True, False})  # 0.05 and 0.5 of 201


def test_judged_documents_come_with_their_queries_but_for_titles_kept_for_testing(tmp_path):
    judged(
        tmp_path / "x",
        [("a", "Tea", "1"), ("b", "Tea", "2"), ("c", "Milk", "3"), ("d", "Rum", "4"), ("e", "", "5")],
        {"q1": "one", "q2": "two", "q3": "three", "q4": "four", "q5": "five"},
        all=[("q2", "b", 1), ("q1", "b", 2), ("q1", "a", 0), ("q3", "c", 1), ("q4", "a", 1), ("q4", "d", 1), ("q5", "e", 1)],
        test=[("q3", "c", 1), ("q4", "a", 0), ("q5", "e", 1)],
    )  # fmt: skip
    found = passages("judged", tmp_path, split="all", exclude_titles_of="test")
    assert [(one.doc_id, one.title, one.text, asked(one), one.group) for one in found] == [
        ("b", "Tea", "2", ["two", "one"], "Tea"),
        ("a", "Tea", "1", ["four"], "Tea"),
        ("d", "Rum", "4", ["four"], "Rum"),
        ("e", "", "5", ["five"], None),
    ]


def test_a_query_is_left_out_whole_where_one_of_its_documents_has_a_title_kept_for_testing(tmp_path):
    judged(tmp_path / "x", [("a", "Tea", "1"), ("b", "Milk", "2")], {"1": "one", "2": "two"},
           all=[("1", "a", 1), ("1", "b", 1), ("2", "b", 1)], test=[("1", "a", 1)])  # fmt: skip
    assert [asked(one) for one in passages("judged", tmp_path, split="all", exclude_titles_of="test")] == [["two"]]


def test_a_limit_draws_records_by_chance(tmp_path):
    corpus(tmp_path / "x", *((str(i), f"t{i}", f"text {i}") for i in range(50)))
    drawn = [[one.doc_id for one in passages("title-abstract", tmp_path, seed=seed, limit=10)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) != set(drawn[2])
    assert len(set(drawn[0])) == 10
    assert len(passages("title-abstract", tmp_path, limit=99)) == 50


# sets


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
    assert (len(without.held_out), len(held.held_out)) == (0, 4)


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
        Recipe.read(tmp_path / "r.toml")


def test_files_that_are_not_there_are_told(tmp_path):
    with pytest.raises(WinnowError, match=r"none.toml does not exist; give a TOML file"):
        Recipe.read(tmp_path / "none.toml")
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
    PairSet.build(Recipe.read(ROOT / "benchmarks" / "winnow_mini" / "pairs.toml"), data, progress=False).write(
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
