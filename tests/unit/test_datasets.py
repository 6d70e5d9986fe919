import gzip
import json

import pytest
from conftest import ROOT

from eval.datasets import (
    CorpusCheck,
    catalogue,
    judged_missing,
    load_dataset,
    missing_documents,
    multi_gold,
    named,
    parts_of,
    spec_named,
    warned,
)
from index.errors import CorpusError, WinnowError, WinnowWarning
from retrieval.beir_folder import read_qrels

HEADER = "query-id\tcorpus-id\tscore\n"
QUERIES = '{"_id": "1", "text": "one"}\n{"_id": "2", "text": "two"}\n'


def beir_folder(folder, judgments=(("1", "a", 2), ("1", "b", 0)), documents="ab", queries=QUERIES):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(f'{{"_id": "{one}", "text": "x"}}\n' for one in documents))
    (folder / "queries.jsonl").write_text(queries)
    (folder / "qrels" / "test.tsv").write_text(HEADER + "".join(f"{q}\t{d}\t{r}\n" for q, d, r in judgments))
    return folder


def queries(*ids):
    return "".join(json.dumps({"_id": one, "text": f"text of {one}"}) + "\n" for one in ids)


@pytest.fixture
def folder(tmp_path):
    return beir_folder(tmp_path / "notes")


def test_only_judged_queries_are_asked_and_the_others_are_counted(folder):
    dataset = load_dataset(folder)
    assert dataset.queries == {"1": "one"}
    assert dataset.qrels == {"1": {"a": 2, "b": 0}}
    assert dataset.counts["queries_without_judgments"] == 1  # query 2
    assert dataset.problems == ()


def test_trec_judgments_are_read_too(tmp_path):
    (tmp_path / "q.txt").write_text("1 0 a 2\n1 0 b 0\n")
    assert read_qrels(tmp_path / "q.txt") == {"1": {"a": 2, "b": 0}}


def test_an_id_between_tabs_may_hold_any_space(tmp_path):
    (tmp_path / "q.tsv").write_text("q 1\ta\u00a0b\t1\nq 1\t0\tc d\t-1 \n")
    assert read_qrels(tmp_path / "q.tsv") == {"q 1": {"a\u00a0b": 1, "c d": -1}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1\ta\n", r"test.tsv:2 is '1\\ta'; a judgment is"),
        ("1\ta\thigh\n", r"test.tsv:2 is '1\\ta\\thigh'; a judgment is"),
        ("1\ta\t1_0\n", r"test.tsv:2 is '1\\ta\\t1_0'; a judgment is .* a whole number of at most 9 digits"),
        ("1\t\t1\n", r"test.tsv:2 is '1\\t\\t1'; a judgment is"),
        ("1\ta\t1\n1\ta\t0\n", r"test.tsv:3 judges document 'a' for query '1' again"),
        ("", "holds no judgments"),
    ],
)
def test_bad_judgments_are_named(folder, lines, message):
    (folder / "qrels" / "test.tsv").write_text(HEADER + lines)
    with pytest.raises(CorpusError, match=message):
        load_dataset(folder)


def test_judged_queries_whose_text_is_missing_stay_judged_and_are_told(tmp_path):
    judgments = [("1", "a", 1), ("8", "a", 1), ("9", "a", 1), ("9", "b", 1)]
    dataset = load_dataset(beir_folder(tmp_path / "notes", judgments))
    assert list(dataset.queries) == ["1"]
    assert list(dataset.qrels) == ["1", "8", "9"]  # so that a mean over judged queries divides by 3
    (problem,) = dataset.problems
    assert problem.endswith("test.tsv:3 judges the query '8' that queries.jsonl lacks; 2 such queries count as 0.")
    assert dataset.counts["judged_queries_missing"] == 2
    assert dataset.of_queries(["1"]).qrels == {"1": {"a": 1}}


def test_judged_queries_without_a_relevant_document_are_told(tmp_path):
    judgments = [("1", "a", 0), ("1", "b", -1), ("2", "b", 1)]
    dataset = load_dataset(beir_folder(tmp_path / "notes", judgments))
    (problem,) = dataset.problems
    assert problem.endswith("test.tsv:2 judges the query '1' without a relevant document; 1 such query counts as 0.")
    assert dataset.counts["queries_without_relevant"] == 1


def test_judged_queries_without_text_are_told(tmp_path):
    texts = '{"_id": "1", "text": "one"}\n{"_id": "2", "text": " "}\n{"_id": "3"}\n'
    dataset = load_dataset(beir_folder(tmp_path / "notes", [("1", "a", 1), ("2", "a", 1)], queries=texts))
    (problem,) = dataset.problems
    assert problem.endswith("queries.jsonl:2 has no text for a judged query; such queries: 1.")


def test_who_makes_no_report_is_warned(tmp_path):
    dataset = load_dataset(beir_folder(tmp_path / "notes", [("1", "a", 1), ("9", "a", 1)]))
    with pytest.warns(WinnowWarning, match="test.tsv:3 judges the query '9' that queries.jsonl lacks"):
        assert warned(dataset) is dataset


def test_queries_that_are_all_of_another_data_set_are_refused(tmp_path):
    with pytest.raises(WinnowError, match=r"queries.jsonl has none of the 1 queries that the split 'test' judges"):
        load_dataset(beir_folder(tmp_path / "notes", [("9", "a", 1)]))


@pytest.mark.parametrize("name", ["queries.jsonl", "corpus.jsonl"])
def test_a_folder_without_one_of_its_files_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(WinnowError, match=f"it has no {name}"):
        load_dataset(folder)


def test_empty_files_are_named(folder):
    (folder / "corpus.jsonl").write_text("\n")
    with pytest.raises(CorpusError, match=r"corpus.jsonl holds no documents"):
        load_dataset(folder)
    (folder / "corpus.jsonl").write_text('{"_id": "a"}')
    (folder / "queries.jsonl").write_text("")
    with pytest.raises(WinnowError, match=r"queries.jsonl has none of the 1 queries"):
        load_dataset(folder)


def test_an_unknown_split_is_named(folder):
    with pytest.raises(WinnowError, match="has no split 'dev'; its splits are test"):
        load_dataset(folder, "dev")


def test_a_query_id_used_twice_is_named(folder):
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "one"}\n\n{"_id": "1", "text": "two"}\n')
    with pytest.raises(CorpusError, match=r"queries.jsonl:3 has the query id '1' twice"):
        load_dataset(folder)


def test_a_query_without_an_id_is_named(folder):
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "one"}\n{"text": "two"}\n')
    with pytest.raises(CorpusError, match=r"queries.jsonl:2 has no _id"):
        load_dataset(folder)


def test_judged_documents_that_the_corpus_lacks_are_told_with_what_they_cost(tmp_path):
    judgments = [("1", "a", 1), ("1", "y", 0), ("2", "z", 1), ("2", "y", 1)]
    dataset = load_dataset(beir_folder(tmp_path / "notes", judgments))
    check = missing_documents(dataset)
    assert (check.documents, check.missing) == (2, ("y", "z"))
    (problem,) = check.problems
    assert "test.tsv:3 judges the document 'y' that the corpus lacks" in problem
    assert problem.endswith("documents that cannot be found: 2, queries that lose a relevant one by it: 1.")  # query 2
    of_second = judged_missing(dataset.of_queries(["2"]), ["a", "z"])
    assert "test.tsv:5 judges the document 'y'" in of_second.problems[0]
    assert judged_missing(dataset, iter(["a", "y"])).missing == ("z",)
    assert judged_missing(dataset, ["z", "y", "a"]) == CorpusCheck(None, (), ())


def test_a_corpus_is_checked_through_gzip_too(folder):
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        file.write('{"_id": "a"}\n')
    (folder / "corpus.jsonl").unlink()
    assert missing_documents(load_dataset(folder)).missing == ("b",)


def test_a_document_id_used_twice_is_named_with_both_lines(tmp_path):
    dataset = load_dataset(beir_folder(tmp_path / "notes", documents="abca"))
    with pytest.raises(CorpusError, match=r"corpus.jsonl:4 has the id 'a' of .*corpus.jsonl:1; give each document"):
        missing_documents(dataset)


def test_ids_whose_codes_collide_are_not_taken_for_one(folder, monkeypatch):
    monkeypatch.setattr("eval.datasets.corpus_check.code_of", lambda doc_id: 7)
    assert missing_documents(load_dataset(folder)).documents == 2


def test_a_document_without_an_id_is_named(folder):
    dataset = load_dataset(folder)
    (folder / "corpus.jsonl").write_text('{"_id": "a"}\n{"text": "x"}\n')
    with pytest.raises(CorpusError, match=r"corpus.jsonl:2 has no _id"):
        missing_documents(dataset)


def test_queries_of_several_relevant_documents_are_counted(tmp_path):
    judgments = [("1", "a", 1), ("1", "b", 0), ("2", "a", 1), ("2", "b", 2)]
    assert multi_gold(load_dataset(beir_folder(tmp_path / "notes", judgments))) == 1  # query 2


def test_equal_ids_alone_never_remove_anything(tmp_path):
    folder = beir_folder(tmp_path / "cranfield", [("1", "1", 1)], documents="12")  # numbers in both
    assert not load_dataset(folder).removes_self
    assert not load_dataset(folder, spec=spec_named("fiqa")).removes_self


def test_self_retrieval_is_removed_where_queries_are_documents():
    assert {name for name, spec in catalogue().items() if spec.removes_self} == {"arguana", "quora"}
    assert all(spec.why_self for spec in catalogue().values())


def test_a_folder_called_like_a_data_set_is_that_only_with_as_many_judged_queries(tmp_path):
    numbered = [str(number) for number in range(1406)]
    judgments = [(one, "a", 1) for one in numbered]
    same = load_dataset(beir_folder(tmp_path / "arguana", judgments, queries=queries(*numbered)))
    assert (same.removes_self, same.problems, same.spec.name) == (True, (), "arguana")
    other = load_dataset(beir_folder(tmp_path / "other" / "arguana", judgments[:2], queries=queries("0", "1")))
    assert not other.removes_self
    assert other.problems == (
        "arguana has 2 judged queries in its split 'test' where BEIR's has 1,406; it is taken for another collection, and BEIR's "
        "conventions are not applied.",
    )


def test_a_data_set_that_is_named_keeps_its_conventions_and_tells_differences(tmp_path):
    dataset = load_dataset(beir_folder(tmp_path / "copy"), spec=spec_named("arguana"))
    assert (dataset.name, dataset.removes_self) == ("arguana", True)
    assert dataset.problems == ("arguana has 1 judged queries in its split 'test' where BEIR's has 1,406.",)
    assert missing_documents(dataset).problems == ("arguana has 2 documents; 8,674 are published.",)


def test_touche_says_which_version_it_is():
    spec = spec_named("webis-touche2020")
    assert spec.version == "v2"
    assert "v1" in spec.about


def test_ms_marco_is_measured_on_dev_and_everything_else_on_test():
    assert {name: spec.split for name, spec in catalogue().items() if spec.split != "test"} == {"msmarco": "dev"}


def test_the_catalogue_is_whole():
    known = catalogue()
    assert len(known) == 19
    assert [name for name, spec in known.items() if not spec.is_public] == [
        "bioasq",
        "signal1m",
        "trec-news",
        "robust04",
    ]
    for spec in known.values():
        assert (spec.md5 is None) == bool(spec.where)
        assert spec.md5 is None or len(bytes.fromhex(spec.md5)) == 16
        assert spec.split in spec.queries
    forums = known["cqadupstack"].parts.values()
    assert sum(spec.documents for spec in forums) == known["cqadupstack"].documents == 457_199
    assert sum(spec.queries["test"] for spec in forums) == known["cqadupstack"].queries["test"] == 13_145


def test_the_documented_table_is_the_catalogue():
    page = (ROOT / "docs" / "datasets.md").read_text()
    for spec in catalogue().values():
        self = "removed" if spec.removes_self else "kept"
        assert (
            f"| `{spec.name}` | {spec.title} | {spec.documents:,} | {spec.queries[spec.split]:,} ({spec.split}) | {self}: {spec.why_self} |"
        ) in page


def test_groups_and_names():
    assert [spec.name for spec in named("all")] == list(catalogue())
    assert {spec.name for spec in named("all")} - {spec.name for spec in named("public")} == {
        "bioasq", "signal1m", "trec-news", "robust04",
    }  # fmt: skip
    assert all(spec.documents < 60_000 for spec in named("small"))
    assert [spec.name for spec in named("fiqa, scifact,fiqa")] == ["fiqa", "scifact"]
    with pytest.raises(
        WinnowError, match=r"'scifcat' is not a data set of BEIR; did you mean scifact or scidocs\? All names are all"
    ):
        named("fiqa,scifcat")
    with pytest.raises(
        WinnowError, match=r"'' is not a data set of BEIR; the names are all, public, small, trec-covid"
    ):
        named("")


def test_a_folder_of_folders_has_parts(tmp_path):
    for part in ("gis", "android"):
        beir_folder(tmp_path / "forums" / part)
    (tmp_path / "forums" / "notes.txt").write_text("no part")
    android, gis = parts_of(tmp_path / "forums")
    assert (android.name, android.part_of, gis.name) == ("forums-android", "forums", "forums-gis")
    assert android.problems == ()
    (alone,) = parts_of(tmp_path / "forums" / "gis")
    assert (alone.name, alone.part_of) == ("gis", None)


def test_a_part_with_a_file_missing_is_told(tmp_path):
    beir_folder(tmp_path / "forums" / "gis")
    (beir_folder(tmp_path / "forums" / "tex") / "queries.jsonl").unlink()
    with pytest.raises(WinnowError, match=r"tex is not a BEIR folder \(it has no queries.jsonl\)"):
        parts_of(tmp_path / "forums")


def test_parts_that_cqadupstack_lacks_are_told(tmp_path):
    for part in (*list(catalogue()["cqadupstack"].parts)[:11], "cooking"):
        beir_folder(tmp_path / "cqadupstack" / part)
    datasets = parts_of(tmp_path / "cqadupstack")
    assert len(datasets) == 12
    for one in datasets:
        assert one.problems[-1].endswith(
            "lacks wordpress and has cooking besides; the published mean is over 12 parts."
        )
    assert datasets[0].problems[0] == (
        "cqadupstack-android has 1 judged queries in its split 'test' where BEIR's has 699."
    )


def test_a_folder_that_is_nothing_of_the_sort_is_told(tmp_path):
    with pytest.raises(WinnowError, match="is not a BEIR folder and holds none"):
        parts_of(tmp_path)
    with pytest.raises(WinnowError, match="nowhere is no folder"):
        parts_of(tmp_path / "nowhere")
