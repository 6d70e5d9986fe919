"""The benchmark scripts on collections so small that every number can be told beforehand. No peer is needed."""

import json
import sys

import compare_sparse
import make_collection
import numpy as np
import plot_sparse
import plot_training
import protocol
import pytest
import quantised_quality
import real_vectors
import sparse_search
import truth
from collections_for_tests import brute_force, sparse_rows

DOCUMENTS = [{3: 2.0, 7: 1.0}, {7: 4.0}, {3: 1.0, 9: 0.5}, {9: 8.0}]
QUERIES = [{3: 1.0, 7: 0.5}, {9: 2.0}, {11: 1.0}]


def write_collection(folder, documents, **queries_of_kind):
    """The files that the protocol asks for, with the exact answers."""
    folder.mkdir(exist_ok=True)
    for array, values in sparse_rows(documents)._asdict().items():
        np.save(folder / f"docs_{array}.npy", values.astype(np.uint16) if array == "indices" else values)
    for kind, queries in queries_of_kind.items():
        protocol.save_queries(
            folder / f"queries_{kind}",
            [(np.array(sorted(q), np.int32), np.array([q[t] for t in sorted(q)], np.float32)) for q in queries],
        )
        truth.write_truth(folder, kind)
    return folder


def random_vectors(count, longest, rng):
    drawn = [rng.choice(200, rng.integers(1, longest + 1), replace=False) + 1_000 for _ in range(count)]
    return [{int(term): float(rng.exponential()) + 0.01 for term in terms} for terms in drawn]


def run_script(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    script.main()


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# protocol and exact answers


def test_queries_are_read_as_they_were_saved(tmp_path):
    folder = write_collection(tmp_path, DOCUMENTS, splade=QUERIES)
    read = [
        dict(zip(terms.tolist(), weights.tolist(), strict=True))
        for terms, weights in protocol.queries_of(folder, "splade")
    ]
    assert read == QUERIES


def test_a_short_query_is_the_three_heaviest_terms_at_weight_1(tmp_path):
    write_collection(tmp_path, DOCUMENTS, **{"if": [{2: 0.5, 4: 3.0, 6: 1.0, 8: 2.0}, {5: 9.0}]})
    (terms, weights), (only_term, only_weight) = protocol.queries_of(tmp_path, "short")
    assert (terms.tolist(), weights.tolist()) == ([4, 6, 8], [1.0, 1.0, 1.0])
    assert (only_term.tolist(), only_weight.tolist()) == ([5], [1.0])


def test_exact_answers_are_those_of_the_definition_with_ties_by_document(tmp_path):
    write_collection(tmp_path, DOCUMENTS, splade=QUERIES)
    ids, scores = np.load(tmp_path / "gt_splade_ids.npy"), np.load(tmp_path / "gt_splade_scores.npy")
    assert ids[:, :4].tolist() == [[0, 1, 2, -1], [3, 2, -1, -1], [-1, -1, -1, -1]]
    assert scores[0, :3].tolist() == [1.0 * 2 + 0.5 * 1, 0.5 * 4, 1.0 * 1]
    assert np.all(scores[2] == -np.inf)


@pytest.mark.parametrize("documents_at_once", [7, 1_000])
def test_exact_answers_do_not_depend_on_the_documents_scored_together(tmp_path, monkeypatch, documents_at_once):
    monkeypatch.setattr(truth, "DOCUMENTS_AT_ONCE", documents_at_once)
    monkeypatch.setattr(truth, "DEPTH", 5)
    rng = np.random.default_rng(0)
    documents = [{term: float(rng.integers(1, 3)) for term in v} for v in random_vectors(60, 40, rng)]  # many ties
    queries = [{term: 1.0 for term in v} for v in random_vectors(20, 8, rng)]
    write_collection(tmp_path, documents, splade=queries)
    ids, scores = np.load(tmp_path / "gt_splade_ids.npy"), np.load(tmp_path / "gt_splade_scores.npy")
    for query, got_ids, got_scores in zip(queries, ids, scores, strict=True):
        expected = brute_force(documents, query, 5)
        assert list(zip(got_scores.tolist(), got_ids.tolist(), strict=True))[: len(expected)] == expected
        assert np.all(got_ids[len(expected) :] == -1)


def test_recall_is_the_share_of_what_can_be_found(tmp_path):
    write_collection(tmp_path, DOCUMENTS, splade=QUERIES)
    everything = [[0, 1, 2], [3, 2], []]
    assert protocol.recall(tmp_path, "splade", everything, k=10) == {"recall": 1.0}
    assert protocol.recall(tmp_path, "splade", [[0, 1, 3], [1, 2], [0]], k=10) == {"recall": (2 / 3 + 1 / 2) / 2}
    assert protocol.recall(tmp_path, "splade", [[1]], k=1) == {"recall": 0.0}  # only the first query was asked
    assert protocol.recall(tmp_path, "if", everything, k=10) == {}


def test_timing_takes_the_pass_with_the_least_processor_time_and_returns_every_answer(monkeypatch):
    processor_seconds = iter([0.0, 3.0, 3.0, 4.0, 4.0, 6.0])  # passes of 3, 1 and 2 seconds
    monkeypatch.setattr(protocol.time, "process_time", lambda: next(processor_seconds))
    asked = []
    latency, answers = protocol.timed(lambda query: asked.append(query) or -query, [1, 2, 3, 4])
    assert answers == [-1, -2, -3, -4]
    assert len(asked) == 4 + 3 * 4  # once to warm up
    assert latency["cpu_us"] == 1e6 / 4
    assert 0 <= latency["p50_us"] <= latency["p99_us"]


def test_inverted_lists_hold_each_posting_in_order_of_documents(tmp_path):
    starts, docs, impacts = protocol.inverted_lists(write_collection(tmp_path, DOCUMENTS))
    assert len(starts) == protocol.NUM_TERMS + 1
    lists = {term: slice(starts[term], starts[term + 1]) for term in (3, 7, 8, 9)}
    assert [docs[row].tolist() for row in lists.values()] == [[0, 2], [0, 1], [], [2, 3]]
    assert [impacts[row].tolist() for row in lists.values()] == [[2.0, 1.0], [1.0, 4.0], [], [0.5, 8.0]]


def test_a_peer_gets_a_line_with_what_every_line_has(tmp_path):
    write_collection(tmp_path / "tiny", DOCUMENTS, splade=QUERIES)
    out = tmp_path / "out.jsonl"
    found = {3: [0, 1, 2], 9: [3]}
    protocol.compete(
        out, tmp_path / "tiny", "peer", "splade", "exact", found.get, [3, 9], list, 10, build_s=1.5, index_bytes=64
    )
    (line,) = lines_of(out)
    expected = {
        "contestant": "peer",
        "dataset": "tiny",
        "documents": 4,
        "queries": "splade",
        "k": 10,
        "target": "exact",
    }
    assert expected.items() <= line.items()
    assert (line["queries_timed"], line["recall"], line["build_s"]) == (2, (1 + 1 / 2) / 2, 1.5)


# our own index


def test_our_index_is_measured_from_end_to_end(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    data = write_collection(
        tmp_path / "tiny",
        random_vectors(300, 60, rng),
        splade=random_vectors(30, 24, rng),
        **{"if": random_vectors(30, 7, rng)},
    )
    out = tmp_path / "out.jsonl"
    run_script(
        monkeypatch, sparse_search, "--data", data, "--json", out, "--impacts", "f32", "--queries", *protocol.KINDS,
        "--targets", "0.95", "exact", "--threads", "1",
    )  # fmt: skip
    lines = lines_of(out)
    assert [(r["queries"], r["target"]) for r in lines] == [(q, t) for q in protocol.KINDS for t in ("0.95", "exact")]
    for r in lines:
        assert (r["contestant"], r["documents"], r["queries_timed"], r["k"]) == ("winnow", 300, 30, 10)
        assert r["cpu_us"] > 0
        assert r["index_bytes"] > 0
        if r["target"] == "exact" and r["queries"] != "short":
            assert (r["recall"], r["bit_identical"]) == (1.0, 1.0)
        assert ("recall" in r) == (r["queries"] != "short")  # no exact answers were written for `short`


# table and pictures


def example_records():
    """Two sizes of collection, us with two kinds of impacts, a peer that is exact and one without recall."""
    rows = []
    for documents, dataset in ((100_000, "100k"), (1_000_000, "1m")):
        for kind in protocol.KINDS:
            for number, target in enumerate(("0.95", "0.99", "exact")):
                for impacts in ("u8", "u16"):
                    rows.append(
                        {
                            "contestant": "winnow",
                            "target": target,
                            "impacts": impacts,
                            "recall": (0.95, 0.99, 1.0)[number],
                        }
                    )
                    rows[-1] |= {"dataset": dataset, "documents": documents, "queries": kind}
            for contestant, target, more in (
                ("sindi", "exact", {"recall": 1.0}),
                ("bm25s", "every query weight 1", {}),
            ):
                rows.append({"contestant": contestant, "target": target, **more})
                rows[-1] |= {"dataset": dataset, "documents": documents, "queries": kind}
    for number, row in enumerate(rows):
        row |= {"k": 10, "cpu_us": 100.0 + number, "p99_us": 300.0, "build_s": 8.0, "index_bytes": 597_000_000}
    return rows


def write_records(file, records):
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def test_the_table_has_a_line_for_each_record():
    table = compare_sparse.as_table(example_records()).splitlines()
    assert len(table) == 1 + len(example_records())
    assert {len(line) for line in table} == {len(table[0])}
    (first,) = [line for line in table if "sindi" in line and "splade" in line and " 106 " in line]
    assert first.split() == ["sindi", "exact", "splade", "1.0000", "106", "300", "8.0", "597"]


def test_of_a_setting_measured_twice_the_last_line_counts(tmp_path):
    once, again = example_records()[0], {**example_records()[0], "cpu_us": 7.0}
    assert plot_sparse.latest([write_records(tmp_path / "a", [once, again])]) == [again]
    assert len(plot_sparse.latest([write_records(tmp_path / "b", example_records())])) == len(example_records())


def test_the_frontier_leaves_out_what_is_slower_and_no_better():
    points = [{"cpu_us": us, "recall": recall} for us, recall in ((10, 0.9), (20, 0.85), (20, 0.95), (30, 0.95))]
    assert plot_sparse.frontier(points) == [points[0], points[2]]


@pytest.mark.parametrize(("picture", "suffix"), [("recall", "svg"), ("growth", "svg"), ("recall", "png")])
def test_pictures_are_drawn_without_a_display(tmp_path, monkeypatch, picture, suffix):
    monkeypatch.delenv("DISPLAY", raising=False)
    file = write_records(tmp_path / "records.jsonl", example_records())
    drawn = tmp_path / f"{picture}.{suffix}"
    run_script(monkeypatch, plot_sparse, picture, drawn, file)
    assert drawn.stat().st_size > 10_000
    assert drawn.read_bytes().startswith({"svg": b"<?xml", "png": b"\x89PNG"}[suffix])


def test_what_the_pictures_show(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(plot_sparse, "finish", lambda figure, axes, file: shown.update(axes))
    at_one_size = [r for r in example_records() if r["dataset"] == "1m"]
    plot_sparse.plot_recall(at_one_size, tmp_path / "unused")
    legend = shown["splade"].get_legend_handles_labels()[1]
    assert legend == ["winnow u16", "winnow u8", "sindi"]  # bm25s has no recall
    stars = [line for line in shown["if"].lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert [line.get_ydata().tolist() for line in stars] == [[plot_sparse.WITHOUT_LOSS]] * 3
    plot_sparse.plot_growth(example_records(), tmp_path / "unused", "u8")
    assert shown["if"].get_legend_handles_labels()[1] == ["winnow exact", "winnow 0.99", "winnow 0.95", "sindi exact"]
    assert all(line.get_xdata().tolist() == [100_000, 1_000_000] for line in shown["if"].lines)


def test_without_matplotlib_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        SystemExit, match=r"^Plots need the package matplotlib; run `pip install 'winnow-ir\[eval\]'`\.$"
    ):
        plot_sparse.new_figure()


def test_a_comparison_names_missing_peers_and_ends_with_table_and_picture(tmp_path, monkeypatch, capsys):
    write_records(tmp_path / "out.jsonl", [r for r in example_records() if r["dataset"] == "1m"])
    commands = []
    done = compare_sparse.subprocess.CompletedProcess
    monkeypatch.setattr(compare_sparse.subprocess, "run", lambda c: commands.append(c) or done(c, int("u8" in c)))
    run_script(
        monkeypatch, compare_sparse, "--data", tmp_path, "--peers", tmp_path, "--json", tmp_path / "out.jsonl",
        "--impacts", "u8", "u16", "--plot", tmp_path / "out.svg",
    )  # fmt: skip
    assert len(commands) == 2
    printed = capsys.readouterr().out
    assert "sparse_search failed: its lines are missing or incomplete." in printed
    for peer in ("bm25s", "bmp", "pisa", "seismic", "sindi", "splade_index"):
        assert f"{peer} is left out." in printed
    assert (tmp_path / "out.svg").stat().st_size > 10_000


# collections


def test_a_made_collection_has_the_statistics_of_splade(tmp_path):
    made = make_collection.make_collection(2_000, seed=3, out=tmp_path / "a", num_queries=200)
    assert made["documents"] == 2_000
    assert made["terms_a_document"] == pytest.approx(120, abs=3)
    assert made["share_of_50_largest"] == pytest.approx(0.76, abs=0.02)
    assert made["splade_terms"] == pytest.approx(24.5, abs=1.5)
    assert made["if_terms"] == pytest.approx(6.7, abs=0.5)
    assert made["splade_multiply_adds_a_document"] == pytest.approx(0.94, abs=0.15)
    assert made["if_multiply_adds_a_document"] == pytest.approx(0.26, abs=0.07)
    assert json.loads((tmp_path / "a" / "statistics.json").read_text()) == made
    indptr, indices, data = protocol.load_documents(tmp_path / "a")
    assert (len(indptr), indptr[0], indptr[-1], len(data)) == (2_001, 0, len(indices), len(indices))
    row_starts = indptr[1:-1]
    rises = np.diff(indices.astype(np.int64)) > 0
    rises[row_starts - 1] = True
    assert rises.all()
    assert 0 < data.min() <= data.max() <= make_collection.LARGEST


def test_the_same_seed_makes_the_same_collection_in_any_number_of_pieces(tmp_path, monkeypatch):
    make_collection.make_collection(600, seed=3, out=tmp_path / "whole", num_queries=5)
    monkeypatch.setattr(make_collection, "DOCUMENTS_AT_ONCE", 250)
    make_collection.make_collection(600, seed=3, out=tmp_path / "pieces", num_queries=5)
    make_collection.make_collection(600, seed=4, out=tmp_path / "other", num_queries=5)
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert len(names) == 3 + 2 * 3 + 3 * 2 + 1
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()
    assert (tmp_path / "whole" / "docs_data.npy").read_bytes() != (tmp_path / "other" / "docs_data.npy").read_bytes()


@pytest.fixture
def beir_folder(tmp_path):
    texts = {"a": "the moon landing", "b": "green tea leaves", "c": "tea on the moon", "d": "a garden", "e": "rain"}
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    corpus = [json.dumps({"_id": doc_id, "title": "", "text": text}) for doc_id, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    queries = [json.dumps({"_id": "1", "text": "moon"}), json.dumps({"_id": "2", "text": "green tea"})]
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n2\tb\t1\n")
    return folder


def test_real_vectors_are_the_encoders_whatever_the_parts_and_keep_their_rank(
    tmp_path, beir_folder, monkeypatch, capsys
):
    from retrieval import Retriever
    from retrieval.corpus import read_corpus
    from retrieval.encoders.mini import mini

    monkeypatch.setattr(real_vectors, "DOCUMENTS_A_PART", 2)
    splade = tmp_path / "splade.tsv"
    splade.write_text("7\tmoon moon moon ##ing nosuchword\n8\ttea\n")
    out = tmp_path / "vectors"
    for _ in range(2):  # the second time from the parts that are there
        run_script(
            monkeypatch, real_vectors, "--data", beir_folder, "--out", out, "--splade-queries", splade,
        )  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["documents"], told["queries_if"], told["queries_splade"]) == (5, 2, 2)
    assert told["unmapped"] == {"nosuchword": 1}
    encoder = mini()
    expected = encoder.encode_documents(read_corpus(beir_folder)).vectors
    got = protocol.load_documents(out)
    assert [got[0].tolist(), got[1].tolist()] == [expected.indptr.tolist(), expected.indices.tolist()]
    assert got[2].tolist() == expected.data.tolist()
    terms, weights = protocol.queries_of(out, "if")[1]
    retriever = Retriever.from_pretrained("mini").index(beir_folder, progress=False)
    ((expected_terms, expected_weights),) = encoder.encode_query("green tea", retriever._opened.snapshot.arms["mini"])
    assert (terms.tolist(), weights.tolist()) == (expected_terms.tolist(), expected_weights.tolist())
    weight_of = {
        encoder.tokenizer.id_to_token(t): w for t, w in zip(*protocol.queries_of(out, "splade")[0], strict=True)
    }
    assert weight_of == {"moon": 3.0, "##ing": 1.0}

    quality = tmp_path / "quality.jsonl"
    run_script(monkeypatch, quantised_quality, "--vectors", out, "--data", beir_folder, "--json", quality)
    lines = lines_of(quality)
    assert [(r["impacts"], r["split"], r["queries"]) for r in lines] == [(i, "test", 1) for i in ("f32", "u16", "u8")]
    assert all(r["nDCG@10"] == 1.0 for r in lines)  # the only document about green tea


def test_a_learning_curve_is_drawn_of_what_a_run_logged(tmp_path, monkeypatch):
    log = [{"step": 0, "evaluation": {"nDCG@10": 0.5, "P@1": 0.25}}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    log.append({"step": 2, "evaluation": {"nDCG@10": 0.75, "P@1": 0.5}})
    (tmp_path / "a" / "run").mkdir(parents=True)
    write_records(tmp_path / "a" / "run" / "log.jsonl", log)
    assert plot_training.losses(log) == ([1, 2], [2.0, 1.0])
    assert plot_training.terms(log) == ([], [], [])
    assert plot_training.terms([{"step": 1, "loss": 2.0, "terms": 150.0, "weight": 0.1}]) == ([1], [150.0], [0.1])
    assert plot_training.evaluations(log) == {"nDCG@10": ([0, 2], [0.5, 0.75]), "P@1": ([0, 2], [0.25, 0.5])}
    assert plot_training.smoothed([2.0, 1.0]) == pytest.approx([2.0, (0.9 * 0.1 * 2 + 0.1) / 0.19])
    run_script(monkeypatch, plot_training, tmp_path / "curve.svg", tmp_path / "a")
    assert (tmp_path / "curve.svg").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="holds no training run"):
        plot_training.plot([tmp_path / "b"], tmp_path / "x.svg")
