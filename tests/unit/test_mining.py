"""Hard negatives: which documents are taken, which never, and that an interrupted run goes on to the same file."""

import json

import pytest
from encoders_for_tests import HashedWords

from index.errors import LockedError, StorageError, WinnowError
from index.locks import WriterLock
from retrieval import Retriever
from retrieval.training.negatives import FoundBeside, found_beside
from retrieval.training.sparse import mining
from retrieval.training.sparse.examples import Examples
from retrieval.training.sparse.mining import Mined, MiningOptions, mine
from winnow.cli import main

# "tea" alone is found in this order: the more often, the better
DOCUMENTS = {
    "best": "tea tea tea tea",
    "good": "tea tea tea cup",
    "copy": "Tea  tea tea CUP",
    "fair": "tea tea cup cup",
    "weak": "tea cup cup cup",
    "none": "cup cup cup cup",
    "void": "",
}


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def beir(folder, documents, queries, judgments):
    (folder / "qrels").mkdir(parents=True)
    jsonl(folder / "corpus.jsonl", [{"_id": one, "text": text} for one, text in documents.items()])
    jsonl(folder / "queries.jsonl", [{"_id": one, "text": text} for one, text in queries.items()])
    lines = "".join(f"{query}\t{document}\t1\n" for query, document in judgments)
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


def bm25(folder):
    return Retriever.from_pretrained("bm25").index(folder / "corpus.jsonl", progress=False)


def mined(folder, options, retriever=None):
    out = folder / "negatives.jsonl"
    out.unlink(missing_ok=True)
    mine(folder, retriever or bm25(folder), out, options, progress=False)
    return {record["query_id"]: record["negatives"] for record in map(json.loads, out.read_text().splitlines())}


@pytest.fixture
def tea(tmp_path):
    return beir(tmp_path / "tea", DOCUMENTS, {"q": "tea", "r": "cup"}, [("q", "good"), ("r", "none"), ("r", "weak")])


@pytest.fixture
def many(tmp_path):
    """600 queries, whose word 40 documents have."""
    documents = {f"d{i}": f"word{i % 15} word{i % 15} filler{i}" + " more" * (i // 15) for i in range(600)}
    queries = {f"q{i}": f"word{i % 15} asked{i}" for i in range(600)}
    return beir(tmp_path / "many", documents, queries, [(f"q{i}", f"d{i}") for i in range(600)])


def test_negatives_are_the_best_documents_but_for_positives_and_their_copies(tea):
    assert mined(tea, MiningOptions()) == {"q": ["best", "fair", "weak"], "r": ["fair", "good", "copy"]}


def test_depth_and_skip_say_which_ranks(tea):
    assert mined(tea, MiningOptions(depth=2))["q"] == ["best", "fair"]
    assert mined(tea, MiningOptions(depth=2, skip=1))["q"] == ["fair"]
    assert mined(tea, MiningOptions(skip=2))["q"] == ["weak"]
    assert mined(tea, MiningOptions(skip=3))["q"] == []


def test_a_margin_leaves_out_what_scores_like_the_positive(tea):
    hits = {hit.doc_id: hit.score for hit in bm25(tea).search("tea", 10)}
    share = hits["weak"] / hits["good"]
    assert mined(tea, MiningOptions(margin=1.0))["q"] == ["fair", "weak"]
    assert mined(tea, MiningOptions(margin=share + 1e-6))["q"] == ["weak"]
    assert mined(tea, MiningOptions(margin=share - 1e-6))["q"] == []


def test_a_margin_by_hand():
    found = FoundBeside([("a", 9.0), ("b", 8.0), ("c", 7.5), ("d", 1.0)], 10.0)
    assert MiningOptions(margin=0.8).negatives_of("q", found) == ["b", "c", "d"]  # at most 0.8 * 10
    assert MiningOptions(margin=0.79).negatives_of("q", found) == ["c", "d"]
    assert MiningOptions(margin=0.8, skip=2).negatives_of("q", found) == ["c", "d"]
    assert (
        MiningOptions(margin=0.8).negatives_of("q", found._replace(best_unwanted=None)) == []
    )  # all score more than it
    below = FoundBeside([("a", -1.5), ("b", -3.0)], -2.0)
    assert MiningOptions(margin=0.5).negatives_of("q", below) == ["b"]


def test_negatives_are_drawn_by_the_seed_and_the_query_in_the_order_of_their_ranks():
    found = FoundBeside([(f"d{i}", 50.0 - i) for i in range(50)], None)
    draws = [
        MiningOptions(seed=seed).negatives_of(query, found) for seed, query in ((0, "a"), (0, "a"), (0, "b"), (1, "a"))
    ]
    assert draws[0] == draws[1]
    assert draws[0] not in draws[2:]
    for draw in draws:
        numbers = [int(one[1:]) for one in draw]
        assert len(set(numbers)) == 8
        assert numbers == sorted(numbers)
    taken = {one for query in range(300) for one in MiningOptions().negatives_of(str(query), found)}
    assert len(taken) == 50


def test_what_is_found_beside_unwanted_documents_is_as_deep_as_asked(tea):
    retriever = bm25(tea)
    both = found_beside(retriever, ["tea", "cup"], [{"best", "good"}, set()], 3)
    assert [[doc_id for doc_id, _ in one.documents] for one in both] == [
        ["copy", "fair", "weak"],
        ["none", "weak", "fair"],
    ]
    assert both[0].best_unwanted == retriever.search("tea", 1)[0].score
    assert both[1].best_unwanted is None


def test_the_file_is_read_as_examples(many):
    found = mine(many, bm25(many), many / "n.jsonl", MiningOptions(negatives=5), progress=False)
    assert found == Mined(600, 3000, 0)
    examples = Examples.read(many, negatives=many / "n.jsonl")
    assert {len(numbers) for numbers in examples.negatives} == {5}
    for query, numbers in zip(examples.queries, examples.negatives, strict=True):
        assert all(examples.documents[number].split()[0] == query.split()[0] for number in numbers)


def test_what_answers_a_query_of_the_same_text_is_no_negative(tmp_path):
    documents = {"a": "tea leaf", "b": "tea cup", "c": "tea pot"}
    folder = beir(tmp_path / "twice", documents, {"q": "tea", "r": " Tea"}, [("q", "a"), ("r", "b")])
    assert mined(folder, MiningOptions(), bm25(folder)) == {"q": ["c"], "r": ["c"]}


def test_any_retriever_mines_also_several_arms_that_are_fused(tea):
    both = Retriever.from_pretrained("bm25+mini").index(tea / "corpus.jsonl", progress=False)
    hits = both.search_batch(["tea"], 10, stored=False)[0]
    expected = [hit.doc_id for hit in hits if hit.doc_id not in ("good", "copy", "void")]
    assert mined(tea, MiningOptions(), both)["q"] == expected[:8]


class WordsOrTea(HashedWords):
    """Has a vector for a text without words, as models have, and here the one that is looked for."""

    def counted(self, text):
        return super().counted(text or "tea")


def test_a_document_without_text_is_no_negative(tea):
    retriever = Retriever(WordsOrTea()).index(tea / "corpus.jsonl", progress=False)
    assert {"best", "void"} == {hit.doc_id for hit in retriever.search("tea", 2)}
    assert mined(tea, MiningOptions(), retriever)["q"] == ["best", "fair", "weak", "none"]


class Stopped(Exception):
    pass


def stop_after(monkeypatch, pieces):
    """The next runs write so many pieces and stop."""
    left = [pieces]

    def append(path, data):
        if left[0] == 0:
            raise Stopped
        left[0] -= 1
        path.open("ab").write(data)

    monkeypatch.setattr(mining, "append", append)


OTHER = b'{"query_id": "q9", "negatives": []}\n'


@pytest.mark.parametrize(
    ("lines", "end", "left"),
    [
        (512, b"", [88]),
        (512, b'{"query_id": "q512", "nega', [88]),
        (512, b"\xff\n", [88]),
        (300, b"", [256, 88]),  # as without the interruption: 256, 256, 88
        (255, OTHER, [256, 256, 88]),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_file(many, monkeypatch, lines, end, left):
    retriever, options = bm25(many), MiningOptions(negatives=3)
    mine(many, retriever, many / "whole.jsonl", options, progress=False)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            mine(many, retriever, many / "cut.jsonl", options, progress=False)
    assert not (many / "cut.jsonl").exists()
    work = many / ".cut.jsonl.mining"
    written = (work / "lines.jsonl").read_bytes().splitlines(keepends=True)
    assert len(written) == 512
    (work / "lines.jsonl").write_bytes(b"".join(written[:lines]) + end)
    asked = []
    search = mining.found_beside
    monkeypatch.setattr(mining, "found_beside", lambda r, q, u, d: asked.append(len(q)) or search(r, q, u, d))
    mine(many, retriever, many / "cut.jsonl", options, progress=False)
    assert asked == left
    assert (many / "cut.jsonl").read_bytes() == (many / "whole.jsonl").read_bytes()
    assert not work.exists()


def test_another_run_does_not_go_on_with_it(many, monkeypatch):
    retriever = bm25(many)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            mine(many, retriever, many / "n.jsonl", MiningOptions(depth=50), progress=False)
    with pytest.raises(
        WinnowError, match=r".n.jsonl.mining holds a run with depth 50, this one has 100; go on with the same"
    ):
        mine(many, retriever, many / "n.jsonl", MiningOptions(), progress=False)
    with pytest.raises(WinnowError, match="holds a run with retriever"):
        mine(many, retriever, many / "n.jsonl", MiningOptions(depth=50), of_retriever={"name": "x"}, progress=False)
    with (many / "queries.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "new"}\n')
    with pytest.raises(WinnowError, match="holds a run with data"):
        mine(many, retriever, many / "n.jsonl", MiningOptions(depth=50), progress=False)
    (many / ".n.jsonl.mining" / "settings.json").write_text("[")
    with pytest.raises(WinnowError, match=r"settings.json cannot be read .*; remove .*mining to mine anew"):
        mine(many, retriever, many / "n.jsonl", MiningOptions(depth=50), progress=False)


def test_a_failing_disk_leaves_no_file_and_the_run_goes_on(tea, monkeypatch):
    def fails(path, data):
        raise StorageError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(mining, "append", fails)
        with pytest.raises(StorageError, match="no room"):
            mine(tea, bm25(tea), tea / "n.jsonl", progress=False)
    assert not (tea / "n.jsonl").exists()
    assert mine(tea, bm25(tea), tea / "n.jsonl", progress=False) == Mined(2, 6, 0)


def test_two_do_not_mine_to_one_file(tea):
    lock = WriterLock(tea / ".n.jsonl.mining")
    with pytest.raises(LockedError, match="already writing to"):
        mine(tea, bm25(tea), tea / "n.jsonl", progress=False)
    lock.release()


def test_a_retriever_of_other_documents_is_told(tea):
    less = Retriever.from_pretrained("bm25").index([{"_id": "a", "text": "tea"}], progress=False)
    with pytest.raises(WinnowError, match=r"the retriever holds 1 documents, and .* has 7; index its corpus"):
        mine(tea, less, tea / "n.jsonl", progress=False)
    others = [{"_id": f"other{i}", "text": text} for i, text in enumerate(DOCUMENTS.values())]
    with pytest.raises(WinnowError, match="found document 'other0', which the corpus lacks"):
        mine(tea, Retriever.from_pretrained("bm25").index(others, progress=False), tea / "n.jsonl", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth is 0; it must be a whole number, 1 or more"),
        ({"negatives": 0}, "negatives is 0; it must be"),
        ({"skip": -1}, "skip is -1; it must be a whole number, 0 or more"),
        ({"seed": 1.5}, "seed is 1.5; it must be"),
        ({"skip": 100}, "the first 100 of 100 ranks are to be left out"),
        ({"margin": 0}, "the margin is 0; it must be a share"),
        ({"margin": 1.1}, "the margin is 1.1; it must be a share"),
        ({"margin": float("nan")}, "the margin is nan; it must be a share"),
    ],
)
def test_options_that_cannot_be_are_told(options, message):
    with pytest.raises(WinnowError, match=message):
        MiningOptions(**options)


def test_the_command_mines_with_a_model_or_an_index(tea, capsys):
    command = ["mine", str(tea), "--no-progress", "--negatives", "2", "--depth", "2"]
    assert main([*command, "--out", str(tea / "a.jsonl")]) == 0
    assert capsys.readouterr().out == f"{tea / 'a.jsonl'}: 4 negatives of 2 queries, of which 0 have none\n"
    bm25(tea).save_pretrained(tea / "index")
    assert main([*command, "--out", str(tea / "b.jsonl"), "--retriever", str(tea / "index")]) == 0
    assert (tea / "b.jsonl").read_text() == (tea / "a.jsonl").read_text()
    assert [json.loads(line)["negatives"] for line in (tea / "a.jsonl").open()] == [["best", "fair"], ["fair", "good"]]


def test_the_command_says_what_is_wrong(tea, capsys, monkeypatch):
    (tea / "there.jsonl").write_text("")
    index = tea / "index"
    bm25(tea).save_pretrained(index)
    for more, message in (
        (["--out", str(tea / "there.jsonl")], "there.jsonl is there already; give another name"),
        (["--out", str(tea / "n.jsonl"), "--retriever", "poem"], "poem"),
        (["--out", str(tea / "n.jsonl"), "--split", "dev"], "has no split 'dev'"),
        (["--out", str(tea / "n.jsonl"), "--margin", "2"], "the margin is 2.0"),
        (
            ["--out", str(tea / "n.jsonl"), "--retriever", str(index), "-o", "max_length=3"],
            "saved with its own options",
        ),
    ):
        assert main(["mine", str(tea), "--no-progress", *more]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert "unexpected" not in said

    def interrupted(path, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(mining, "append", interrupted)
    assert main(["mine", str(tea), "--no-progress", "--out", str(tea / "n.jsonl")]) == 130
    assert "the same command goes on" in capsys.readouterr().err
