import json

import dense_index
import encode_dataset
import numpy as np
from dense_vectors_for_tests import clumped


def test_every_method_is_reported_with_what_it_found(tmp_path, capsys):
    np.save(tmp_path / "docs.npy", clumped(6_000))
    np.save(tmp_path / "queries.npy", clumped(30, seed=1))
    arguments = [
        "--docs",
        tmp_path / "docs.npy",
        "--queries",
        tmp_path / "queries.npy",
        "--json",
        tmp_path / "out.json",
    ]
    arguments += [
        "--markdown",
        tmp_path / "out.md",
        "--held-out",
        100,
        "--factory",
        "Flat",
        "PQ{4}x4",
        "--rescored",
        1,
        500,
    ]
    dense_index.main([str(argument) for argument in arguments])
    flat, coded = map(json.loads, (tmp_path / "out.json").read_text().splitlines())
    assert flat["documents"] == coded["documents"] == 5_900
    assert (flat["bytes"], flat["held_out"]["recall"], flat["queries"]["recall"]) == (4 * 32, 1, 1)
    assert (coded["factory"], coded["bytes"], coded["shared_bytes"]) == ("PQ8x4", 4, 4 * 32 * 16)
    for kind in ("held_out", "queries"):
        by_rescored = coded[kind]["by_rescored"]
        assert by_rescored["1"] < coded[kind]["recall"] <= by_rescored["500"] == 1
        assert coded[kind]["cpu_us"] > 0
    assert (tmp_path / "out.md").read_text().splitlines()[2].startswith("| `PQ8x4` | 4 | 2 |")
    assert (tmp_path / "out.md").read_text() in capsys.readouterr().out


def test_held_out_documents_are_not_in_the_index():
    docs = np.arange(50, dtype=np.float32)[:, None]
    rest, held_out = dense_index.split(docs, 20)
    assert sorted([*rest[:, 0], *held_out[:, 0]]) == list(range(50))
    assert len(held_out) == 20


def test_a_dataset_is_encoded_for_it(tmp_path):
    (tmp_path / "d" / "qrels").mkdir(parents=True)
    (tmp_path / "d" / "corpus.jsonl").write_text(
        '{"_id": "a", "title": "Tea", "text": "green"}\n{"_id": "b", "text": "moon"}\n'
    )
    (tmp_path / "d" / "queries.jsonl").write_text(
        '{"_id": "q", "text": "a moon"}\n{"_id": "r", "text": "not judged"}\n'
    )
    (tmp_path / "d" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tb\t1\n")
    encode_dataset.main(["--data", str(tmp_path / "d"), "--out", str(tmp_path / "v")])
    docs, queries = np.load(tmp_path / "v.docs.npy"), np.load(tmp_path / "v.queries.npy")
    assert (docs.shape, queries.shape, docs.dtype) == ((2, 384), (1, 384), np.float32)
    assert (docs @ queries[0]).argmax() == 1
