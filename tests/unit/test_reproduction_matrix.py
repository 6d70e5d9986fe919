import json

import pytest
from conftest import ROOT
from reproduction_for_tests import result

from eval.reproduction.cells import Place, read_expected
from eval.reproduction.markdown import BEGIN, END, as_markdown, code, main, plain, replaced
from eval.reproduction.matrix import Matrix, Tolerances, moved
from eval.reproduction.published import Anchor, Mean, Published, ReproductionError, Source, read_published

SCIFACT = Place("scifact", "test")
SOURCE = Source("paper", "A paper", "table 2", "1,000 hits", ("nDCG@10",), 3)
PUBLISHED = Published(
    (
        Anchor("theirs", "scifact", "test", "nDCG@10", 0.7, SOURCE),
        Anchor("theirs", "nq", "test", "nDCG@10", 0.5, SOURCE),
        Anchor("others", "both", "test", "nDCG@10", 0.65, SOURCE),
    ),
    (Mean("both", "mean of 2", ("scifact", "nq")),),
    {},
)


def with_measures(system="bm25", **changed):
    measures = {"nDCG@10": 0.6777, "R@100": 0.92}
    return result(system, measures={**measures, **{name.replace("_", "@"): v for name, v in changed.items()}})


def entry(expected, measured, system="bm25", place=SCIFACT):
    (row,) = [row for row in Matrix.of(expected, measured, PUBLISHED).rows if row.system == system]
    return row.entries[place]


@pytest.mark.parametrize(
    ("measured", "found"),
    [
        (with_measures(nDCG_10=0.6787), []),
        (with_measures(nDCG_10=0.6767), []),
        (with_measures(nDCG_10=0.6788), [("nDCG@10", 0.6788)]),
        (with_measures(nDCG_10=0.6766), [("nDCG@10", 0.6766)]),
        (with_measures(nDCG_10=None), [("nDCG@10", None)]),
        (with_measures(nDCG_10=float("nan"), R_100=0.95), [("nDCG@10", "nan"), ("R@100", 0.95)]),
        (with_measures(MAP=0.1), []),
        ({**with_measures(), "queries": 299}, [("queries", 299)]),
        ({**with_measures(), "split": "dev"}, []),
    ],
)
def test_a_value_moves_where_it_differs_by_more_than_its_tolerance_or_is_gone(measured, found):
    shifts = moved([result()], [measured])
    assert [(one.measure, "nan" if one.measured != one.measured else one.measured) for one in shifts] == found


def test_a_reranker_a_gpu_and_a_measure_have_tolerances_of_their_own():
    reranked = "bm25,rerank=icr:m,depth=20"
    by = {"nDCG@10": 0.6777 + 0.0015}
    assert len(moved([result()], [result(measures=by)])) == 2  # R@100 is gone too
    assert [one.measure for one in moved([result(reranked)], [result(reranked, measures=by)])] == ["R@100"]
    gpu = result(measures={**by, "R@100": 0.92}, machine="NVIDIA H100")
    assert moved([result()], [gpu]) == []
    assert len(moved([result()], [gpu], Tolerances(by_measure={"nDCG@10": 0.0001}))) == 1


def test_what_moved_is_told_in_one_line():
    told = [str(one) for one in moved([result()], [result(measures={"nDCG@10": 0.6817}, queries=301)])]
    assert told == [
        "nDCG@10 of bm25 on scifact is 0.6817 (+0.0040), expected 0.6777 within 0.001",
        "R@100 of bm25 on scifact was not measured, expected 0.9200 within 0.001",
        "queries of bm25 on scifact is 301 (+1), expected 300 within 0",
    ]


def test_a_cell_has_the_status_of_its_worst_value_and_shows_what_was_measured():
    assert entry([result()], [result()]).status == "equal"
    assert entry([result()], [with_measures(R_100=0.95)]).status == "moved"
    assert entry([result()], [with_measures(R_100=0.95)]).values["R@100"] == 0.95
    assert entry([result()], []).status == "not run"
    assert entry([result()], []).values == {"nDCG@10": 0.6777, "R@100": 0.92}
    assert entry([], [result()]).status == "new"


def test_published_values_are_a_row_of_their_own_with_their_source_and_the_computed_mean():
    matrix = Matrix.of([result("theirs")], [], PUBLISHED)  # a system of ours may bear the same name
    ours, theirs = [row for row in matrix.rows if row.system == "theirs"]
    assert (ours.is_published, theirs.is_published) == (False, True)
    assert theirs.entries[SCIFACT].sources == {"nDCG@10": SOURCE}
    assert theirs.entries[Place("both", "mean")].values == {"nDCG@10": (0.7 + 0.5) / 2}
    assert Place("both", "mean") not in ours.entries  # which lacks nq


def test_a_mean_of_ours_is_as_sure_as_its_worst_part():
    nq = result(dataset="nq", measures={"nDCG@10": 0.3})
    mean = entry([result(), nq], [result()], place=Place("both", "mean"))
    assert (mean.values, mean.status) == ({"nDCG@10": (0.6777 + 0.3) / 2}, "not run")


def test_places_with_values_of_ours_come_first_then_the_usual_order_then_means():
    matrix = Matrix.of([result(dataset="zoo"), result(dataset="zoo", split="dev")], [], PUBLISHED)
    assert [matrix.labels[place] for place in matrix.places] == ["zoo", "zoo dev", "scifact", "nq", "mean of 2"]
    assert matrix.own_places == (Place("zoo", "test"), Place("zoo", "dev"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not JSON"),
        ("[3]", "entry 1 is 3; a result is an object with measures"),
        (json.dumps([result(), result()]), "entry 2 is bm25 on scifact, which .*entry 1 is too; remove one"),
        (json.dumps(result(system="")), "has '' as its system; give its name"),
        (json.dumps(result(split=None)), "has None as its split"),
        (json.dumps(result(measures={"MAP": float("nan")})), "has nan for MAP; give a finite number, or null"),
        (json.dumps(result(measures={"MAP": "high"})), "has 'high' for MAP"),
        (json.dumps(result(problems="none")), "has 'none' as its problems"),
        (json.dumps(result(efficiency=[])), "as its efficiency"),
    ],
)  # fmt: skip
def test_results_that_are_not_as_an_evaluation_writes_them_are_told_with_their_file(tmp_path, text, message):
    (tmp_path / "cell.json").write_text(text)
    with pytest.raises(ReproductionError, match=f"cell.json.*{message}"):
        read_expected(tmp_path / "cell.json")


def test_results_are_one_object_or_a_list(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(result("a")))
    (tmp_path / "b.json").write_text(json.dumps([result("b"), result("c")]))
    assert [one["system"] for name in "ab" for one in read_expected(tmp_path / f"{name}.json")] == ["a", "b", "c"]
    with pytest.raises(ReproductionError, match="cannot be read"):
        read_expected(tmp_path / "nowhere.json")


def test_markdown_has_every_value_command_and_problem_and_says_what_moved():
    said = "qrels/test.tsv, line 7: document <b> is missing"
    measured = result(measures={"nDCG@10": 0.6817, "R@100": 0.92}, problems=[said])
    lines = Matrix.of([result()], [measured], PUBLISHED).as_markdown().splitlines()
    assert "| `bm25` | 0.6817 (moved, expected 0.6777) |" in lines
    assert "| theirs (published) | 0.700 |" in lines
    assert "## scifact, 300 queries" in lines
    (row,) = [line for line in lines if line.endswith("`python -m eval.beir --data scifact --system bm25` |")]
    assert row.split(" | ")[1:-1] == ["0.6817 (moved, expected 0.6777)", "0.9200", "0.34", "0.53", "4.90", "2.84"]
    assert "- `bm25`: qrels/test.tsv, line 7: document \\<b\\> is missing" in lines
    assert "| mean of 2 | 0.600 | 0.650 |" in lines


def test_markdown_cannot_be_broken_by_a_name():
    assert plain("a|b\n<i>_x_") == "a\\|b \\<i\\>\\_x\\_"
    assert code("`a|") == "`` `a\\| ``"
    lines = Matrix.of([result("x|`y\n| z |")], [], PUBLISHED).as_markdown().splitlines()
    (row,) = [line for line in lines if "0.6777" in line and "command" not in line and "python" not in line]
    assert row == "| ``x\\|`y \\| z \\|`` | 0.6777 |"


def test_a_document_keeps_what_is_around_its_tables():
    assert replaced(f"before\n{BEGIN}\nold\n{END}\nafter", "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter"
    with pytest.raises(ReproductionError, match="lacks the lines"):
        replaced(f"{END} {BEGIN}", "new")


def test_the_document_is_what_the_code_makes_of_the_expected_and_the_published_values(tmp_path):
    """If not: `python -m eval.reproduction.markdown docs/reproduction.md`."""
    document = (ROOT / "docs" / "reproduction.md").read_text()
    assert document == replaced(document, as_markdown(Matrix.of(read_expected(), [], read_published())))
    copy = tmp_path / "copy.md"
    copy.write_text(f"{BEGIN}{END}")
    main(str(copy))
    assert copy.read_text() in document
