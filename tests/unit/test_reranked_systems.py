"""Systems with a reranker in an evaluation: as they are written, what is run, what they are compared with."""

import json

import pytest
from decoders_for_tests import save_decoder
from rerankers_for_tests import LongestFirst

from eval.beir import main as eval_main
from eval.experiment import slug
from retrieval import Retriever
from retrieval.rerankers import loading
from retrieval.rerankers.loading import load_reranker
from retrieval.rerankers.protocol import Ranked, best_first

NUM_QUERIES, NUM_DOCUMENTS = 12, 60


def text_of(number):
    return f"word{number % 6} " + "and " * (number // 6)


@pytest.fixture
def folder(tmp_path):
    """Query i asks for word i % 6, of which ten documents speak; the relevant one is the longest of them."""
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": f"d{i}", "text": text_of(i), "vector": {f"word{i % 6}": 1.0 + i % 5}} for i in range(NUM_DOCUMENTS)
    ]
    queries = [{"_id": f"q{i}", "text": f"word{i % 6}"} for i in range(NUM_QUERIES)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    lines = [f"q{i}\td{54 + i % 6}\t1\n" for i in range(NUM_QUERIES)]
    for split in ("test", "train"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


class ByLength(LongestFirst):
    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def ranked(self, one, top_k):
        self.asked.append((one.query, one.texts))
        scores = [self.sign * float(len(text)) for text in one.texts]
        return [Ranked(index, scores[index]) for index in best_first(scores, top_k)]


@pytest.fixture
def loaded(monkeypatch):
    """What rerankers were loaded, instead of models."""
    found = []

    def from_pretrained(model, *, sign=1):
        found.append((model, sign, ByLength(sign)))
        return found[-1][2]

    monkeypatch.setitem(loading.KINDS, "icr", lambda: from_pretrained)
    return found


def evaluated(folder, tmp_path, *systems, more=()):
    arguments = ["--data", str(folder), "--no-progress", "--json", str(tmp_path / "out.json")]
    arguments += [part for system in systems for part in ("--system", system)]
    assert eval_main([*arguments, "--out", str(tmp_path / "results"), *more]) == 0
    return json.loads((tmp_path / "out.json").read_text())


def run_of(tmp_path, name):
    """Of each query, its documents in order and their scores."""
    found = {}
    for line in (tmp_path / "results" / "data.test" / f"{slug(name)}.run").read_text().splitlines():
        query, _, doc_id, _, score, _ = line.split()
        found.setdefault(query, {})[doc_id] = float(score)
    return found


def test_a_reranked_system_holds_the_best_of_its_first_stage_in_the_order_of_the_reranker(folder, tmp_path, loaded):
    system = "bm25,rerank=icr:some/model,depth=4"
    evaluated(folder, tmp_path, system)
    first, second = run_of(tmp_path, "bm25"), run_of(tmp_path, system)
    for query, scores in first.items():
        assert len(scores) == 10
        assert second[query] == {doc_id: len(text_of(int(doc_id[1:])).strip()) for doc_id in list(scores)[:4]}
        assert list(second[query].values()) == sorted(second[query].values(), reverse=True)


def test_it_is_compared_with_its_first_stage_which_is_measured_once(folder, tmp_path, loaded, capsys):
    systems = "bm25,rerank=icr:m,depth=10", "bm25", "bm25,rerank=icr:m,depth=10,sign=-1", "bm25,rerank=icr:m,depth=3"
    report = evaluated(folder, tmp_path, *systems)
    assert [one["system"] for one in report["cells"]] == ["bm25", systems[0], systems[2], systems[3]]
    values = {one["system"]: one["measures"]["nDCG@10"] for one in report["cells"]}
    assert values[systems[0]] == 1.0  # the longest of all ten
    assert [(one["system"], one["with"]) for one in report["comparisons"]] == [(one, "bm25") for one in values if one != "bm25"]  # fmt: skip
    for one in report["comparisons"]:
        assert one["mean"] == pytest.approx(values[one["system"]] - values["bm25"])
    assert [one["p_value"] < one["p_holm"] < 0.05 for one in report["comparisons"]] == [False, True, True]  # of three
    assert "beside arms and first stages, paired t-test" in capsys.readouterr().out
    assert [(model, sign) for model, sign, _ in loaded] == [("m", 1), ("m", -1)]  # one model for two depths


def test_each_query_is_reranked_once_after_a_short_warm_up(folder, tmp_path, loaded):
    evaluated(folder, tmp_path, "bm25,rerank=icr:m")
    ((_, _, reranker),) = loaded
    asked = [query for query, _ in reranker.asked]
    assert asked[2:] == [f"word{i % 6}" for i in range(NUM_QUERIES)]
    assert asked[:2] == asked[2:4]


def test_several_arms_are_reranked_as_they_are_fused_and_tuned(folder, tmp_path, loaded):
    reranked = "rerank=icr:m,depth=5"
    systems = [f"bm25+vectors,fusion=rrf,{reranked}", f"bm25+vectors,{reranked}"]
    report = evaluated(folder, tmp_path, *systems, more=["--tune", "train"])
    pairs = [(one["system"], one["with"]) for one in report["comparisons"]]
    assert pairs == [
        (systems[0], "bm25+vectors,fusion=rrf"),
        (systems[1], "bm25+vectors"),
        (f"{systems[1]}, tuned on train", "bm25+vectors, tuned on train"),
    ]
    assert [one["system"] for one in report["cells"]] == [name for pair in pairs for name in reversed(pair)]
    for system, first in pairs:
        ranked, reordered = run_of(tmp_path, first), run_of(tmp_path, system)
        assert all(set(reordered[query]) == set(list(ranked[query])[:5]) for query in ranked)


def test_the_run_is_no_longer_than_the_depth_of_the_evaluation(folder, tmp_path, loaded):
    evaluated(folder, tmp_path, "bm25,rerank=icr:m,depth=8", more=["--depth", "3"])
    assert {len(docs) for docs in run_of(tmp_path, "bm25,rerank=icr:m,depth=8").values()} == {3}
    assert {len(texts) for _, texts in loaded[0][2].asked} == {8}


def test_a_real_cross_encoder_reranks(folder, tmp_path):
    from cross_encoders_for_tests import bert

    model = bert(tmp_path / "model, a folder=of mine")
    system = f"bm25,rerank=cross-encoder:{model},depth=5,activation=sigmoid,max_length=30"
    report = evaluated(folder, tmp_path, system)
    assert [one["system"] for one in report["cells"]] == ["bm25", system]
    assert all(0 < score < 1 for docs in run_of(tmp_path, system).values() for score in docs.values())


@pytest.mark.parametrize("kind", ["blockrank", "icr"])
def test_decoders_rerank_with_options_of_their_own(folder, tmp_path, kind):
    model = save_decoder(tmp_path / "decoder", max_position_embeddings=2000)
    system = f"bm25,rerank={kind}:{model},depth=5,chat=none,document_tokens=96"
    evaluated(folder, tmp_path, system)
    first, second = run_of(tmp_path, "bm25"), run_of(tmp_path, system)
    own = load_reranker(f"{kind}:{model}", chat="none", document_tokens=96)
    best = list(first["q0"])[:5]
    ranked = own.rank("word0", [text_of(int(doc_id[1:])) for doc_id in best])
    assert second["q0"] == {best[one.index]: pytest.approx(one.score) for one in ranked}


def test_a_saved_retriever_is_measured_as_it_is_with_the_reranker_that_it_has(folder, tmp_path, loaded):
    retriever = Retriever.from_pretrained("bm25,rerank=icr:m,depth=6").index(folder, progress=False)
    retriever.delete(["d0"])
    retriever.commit().save_pretrained(tmp_path / "saved")
    without = f"{tmp_path / 'saved'},rerank=none"
    report = evaluated(folder, tmp_path, str(tmp_path / "saved"), without, "bm25", "bm25,rerank=icr:m,depth=6")
    saved, first, bm25, built = report["cells"]
    assert first["measures"]["MRR@10"] == bm25["measures"]["MRR@10"]
    assert saved["measures"] == built["measures"]  # d0 is the least of its ten
    assert saved["problems"] == ["the saved index holds 59 documents, the corpus 60."]
    assert saved["efficiency"]["build_seconds"] is None
    assert {len(docs) for docs in run_of(tmp_path, str(tmp_path / "saved")).values()} == {6}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("bm25,depth=5", "has depth=5 but no reranker"),
        ("bm25,rerank=minilm", "the reranker is 'minilm'; write its kind"),
        ("bm25+vectors,fusion=sum", "fusion is 'sum'; it must be one of"),
        (",rerank=icr:m", "one of them without a name"),
    ],
)
def test_a_system_that_means_nothing_is_one_sentence(folder, capsys, written, told):
    assert eval_main(["--data", str(folder), "--system", written]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("eval.beir: ")
    assert told in line


def test_a_file_of_systems_stands_for_all_of_them_or_one(folder, tmp_path, loaded):
    path = tmp_path / "systems.toml"
    path.write_text('[first]\narms = ["bm25"]\n[second]\narms = ["bm25"]\nrerank = "icr:m"\ndepth = 4\n')
    for asked, names in ((str(path), ["bm25", "bm25,rerank=icr:m,depth=4"]), (f"{path}:first", ["bm25"])):
        assert [one["system"] for one in evaluated(folder, tmp_path, asked)["cells"]] == names


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--system", "bm25,rerank=icr:m,layer=3"], "icr has no option layer; it has sign"),
        (
            ["--system", "bm25+vectors,rerank=icr:m", "--tune", "cv"],
            "--tune cv cannot be had with bm25+vectors,rerank=icr:m",
        ),
        (["--system", "bm25,rerank=cross-encoder:/no/such"], "neither a folder"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_the_long_work(folder, capsys, loaded, monkeypatch, more, told):
    monkeypatch.setattr("eval.experiment.build", lambda *_: pytest.fail("built"))
    assert eval_main(["--data", str(folder), *more]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
