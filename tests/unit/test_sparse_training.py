"""`winnow train sparse` from a recipe to a model: what it says, what is left behind, how it goes on and how it ends."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from sentence_transformers import SparseEncoder
from sparse_training_for_tests import WORDS, as_toml, beir_folder, settings

from retrieval import LearnedSparseEncoder
from retrieval.encoders.term_weights import TermWeights
from retrieval.training.sparse.task import SparseTask
from winnow.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ["moon", "the weather in new york", "bread and salt; flour, and the tide"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.bert(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return beir_folder(tmp_path_factory.mktemp("data") / "words")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model, data):
    """Writes recipes and runs the command in a folder; teachers are computed once."""
    cache = tmp_path_factory.mktemp("teachers")

    def arguments(folder, out, more, changes):
        path = folder / "recipe.toml"
        path.write_text(as_toml(settings(model, data, **changes)))
        given = ["--cache", str(cache), "--device", "cpu", "--no-progress"]
        return ["train", "sparse", str(path), "--out", str(folder / out), *given, *more]

    return arguments


@pytest.fixture
def command(tmp_path, runs):
    def run(*more, out="out", **changes):
        return main(runs(tmp_path, out, more, changes))

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, runs):
    """A run that nothing interrupts."""
    folder, before = tmp_path_factory.mktemp("whole"), torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(runs(folder, "out", [], STEERED)) == 0
    torch.set_num_threads(before)
    return folder / "out"


def log(folder):
    """Without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "seconds" not in name} for line in lines]


def steps(folder):
    return [line for line in log(folder) if "loss" in line]


def vectors(encoder, texts=TEXTS):
    rows = encoder.encode_queries(texts), encoder.encode_texts(texts)
    return [tiny.dense(each, encoder.num_terms) for each in rows]


def assert_opens_alike(folder):
    """By our loader and by sentence-transformers; gives our vectors."""
    found = vectors(LearnedSparseEncoder.from_pretrained(folder))
    theirs = SparseEncoder(str(folder), device="cpu", local_files_only=True)
    for encode, rows in zip((theirs.encode_query, theirs.encode_document), found, strict=True):
        np.testing.assert_allclose(encode(TEXTS, convert_to_sparse_tensor=False).numpy(), rows, atol=1e-5)
        assert rows.any(axis=1).all()
    return found


def test_it_trains_a_model_that_both_libraries_open(command, tmp_path, model, capsys):
    changes = {"model__learned": True, "loss__query_learning_rate": 0.05, "training__evaluate_every": 6}
    assert command(**changes) == 0
    said = capsys.readouterr().out.splitlines()
    first, second, *evaluations = said[:-2]
    assert first.startswith(f"{model}: queries without a model, ")
    assert second == "8 queries, 9 documents that answer them; batches of 3 of these with 1 negatives each; 6 steps"
    assert [line.split(":")[0] for line in evaluations] == ["step 0", "step 6"]
    assert said[-2].startswith("best at step ")
    saved = tmp_path / "out" / "model"
    assert said[-1] == f"the model is {saved}: winnow index CORPUS --model {saved} --out INDEX"
    found = steps(tmp_path / "out")
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "contrastive", "distillation", "terms", "weight", "flops", "tokens", "gradient_norm"} <= set(
        found[0]
    )
    assert_opens_alike(saved)


def test_the_last_model_is_saved_as_it_was_trained(command, tmp_path, model, monkeypatch):
    """Queries by a learned table, a Router."""
    tasks = []
    save = SparseTask.save
    monkeypatch.setattr(SparseTask, "save", lambda self, folder: (tasks.append(self), save(self, folder))[1])
    changes = {"model__learned": True, "loss__query_learning_rate": 0.05, "training__evaluate_every": 0}
    assert command(**changes) == 0
    folder, [task] = tmp_path / "out" / "model", tasks
    assert (folder / "query_0_SparseStaticEmbedding" / "model.safetensors").is_file()
    queries, documents = assert_opens_alike(folder)
    task.model.eval()
    for side, rows in ((1, queries), (0, documents)):
        with torch.no_grad():
            np.testing.assert_allclose(task.of_texts(side, TEXTS).numpy(), rows, atol=1e-5)
    before = vectors(LearnedSparseEncoder.from_pretrained(model, activation="log1p"))[1]
    assert np.abs(before - documents).max() > 0.05
    table = LearnedSparseEncoder.from_pretrained(folder).query
    assert isinstance(table, TermWeights)
    assert not table.weights[: len(tiny.SPECIALS)].any()
    idf = np.log(1 + (12 - 3 + 0.5) / (3 + 0.5))  # each word is in three of twelve documents
    of_words = table.weights[[tiny.WORDPIECES.index(word) for word in WORDS]]
    assert (np.abs(of_words - idf) > 0.01).sum() >= 8
    assert of_words[8:].max() < 3 * idf


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({"model__queries": "siamese"}, ["model.safetensors"]),
        (
            {"model__queries": "model", "model__frozen_documents": True},
            ["document_0_Transformer/model.safetensors", "query_0_Transformer/model.safetensors"],
        ),
        ({"model__queries": "siamese", "model__lora": 2}, ["model.safetensors"]),
    ],
    ids=["siamese", "two models", "adapters"],
)
def test_models_for_queries_are_saved_too(command, tmp_path, model, changes, files):
    changes |= {"training__evaluate_every": 0, "training__learning_rate": 0.01, "loss__query_terms": 20.0}
    assert command(**changes) == 0
    folder = tmp_path / "out" / "model"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")) == files
    queries, documents = assert_opens_alike(folder)
    before = vectors(LearnedSparseEncoder.from_pretrained(model, activation="log1p"))
    assert np.abs(before[0] - queries).max() > 0.02
    assert (np.abs(before[1] - documents).max() < 1e-5) == ("model__frozen_documents" in changes)
    assert {"query_terms", "query_weight", "query_flops"} <= set(steps(tmp_path / "out")[0])


def test_a_tied_head_becomes_an_ordinary_checkpoint(command, tmp_path, model):
    changes = {
        "model__head": "tied",
        "model__threshold": 0.1,
        "model__encoder": {"activation": "log1p_log1p", "max_length": 30},
        "training__evaluate_every": 0,
    }
    assert command(**changes) == 0
    folder = tmp_path / "out" / "model"
    _, documents = assert_opens_alike(folder)
    assert not documents[:, : len(tiny.SPECIALS)].any()
    encoder = LearnedSparseEncoder.from_pretrained(folder)
    assert encoder.document.options.activation == "log1p_log1p"
    assert encoder.document.options.threshold == 0  # it is in the bias


STEERED = {
    "model__learned": True,
    "model__dropout": 0.2,
    "model__tokens_at_once": 40,
    "loss__sparsity_warmup": 0.2,
    "loss__document_terms": 10.0,
    "training__steps": 9,
    "training__accumulation": 2,
}


def interrupt(monkeypatch, call):
    losses, left = SparseTask.losses, [call]

    def interrupted(self, number, epoch):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return losses(self, number, epoch)

    monkeypatch.setattr(SparseTask, "losses", interrupted)


@pytest.mark.parametrize("call", [2, 15])
def test_an_interrupted_run_goes_on_to_the_same_losses_and_weights(command, tmp_path, whole, capsys, monkeypatch, call):
    with monkeypatch.context() as patch:
        interrupt(patch, call)
        assert command(out="cut", **STEERED) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err
    torch.manual_seed(1234)
    assert command(out="cut", **STEERED) == 1
    assert "holds a training run; resume it" in capsys.readouterr().err
    assert command("--resume", out="cut", **STEERED) == 0
    cut = tmp_path / "cut"
    assert log(whole) == log(cut)
    weights = [line["weight"] for line in steps(whole)]
    assert len(set(weights)) > 4  # steered all the while: its state is part of what is resumed
    same_files(whole, cut, "run/checkpoint-00000009/model.safetensors")
    for path in (whole / "model").rglob("*.safetensors"):
        same_files(whole, cut, path.relative_to(whole))


def same_files(one, other, name):
    assert (one / name).read_bytes() == (other / name).read_bytes()


KILLED = """
import os, signal, sys
import torch
from retrieval.training.sparse.task import SparseTask
from winnow.cli import main

torch.set_num_threads(1)
losses, calls = SparseTask.losses, []

def killed(self, number, epoch):
    calls.append(number)
    if len(calls) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return losses(self, number, epoch)

SparseTask.losses = killed
main(sys.argv[1:])
"""


def test_a_killed_process_leaves_what_another_one_goes_on_from(command, tmp_path, runs, whole):
    given = [sys.executable, "-c", KILLED, *runs(tmp_path, "cut", [], STEERED)]
    ended = subprocess.run(given, cwd=ROOT, timeout=500, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert command("--resume", out="cut", **STEERED) == 0
    assert log(whole) == log(tmp_path / "cut")
    same_files(whole, tmp_path / "cut", "run/checkpoint-00000009/model.safetensors")


def test_another_recipe_or_other_data_are_refused_where_a_run_is_resumed(command, tmp_path, capsys, model):
    assert command(training__steps=2) == 0
    capsys.readouterr()
    for changes, told in (
        ({"loss__answers": 2}, "holds a run with answers 3, this one has 2"),
        ({"model__dropout": 0.1}, "holds a run with dropout 0.0, this one has 0.1"),
        ({"data__max_length": 9}, "holds a run with document_tokens None, this one has 9"),
        ({"data__negatives": ""}, "holds a run with examples"),
        ({"data__others": 3}, "holds a run with held_out"),
        ({"loss__distillation": 0.0, "teachers": []}, "holds a run with distillation 1.0, this one has 0.0"),
        ({"training__seed": 1}, "holds a run with"),
    ):
        assert command("--resume", **{"training__steps": 2, **changes}) == 1
        said = capsys.readouterr().err
        assert told in said
        assert "resume it with the same settings and data" in said
    assert command("--resume", training__steps=2) == 0  # done already


def test_a_model_whose_weights_changed_is_another(command, tmp_path, capsys):
    start = tiny.bert(tmp_path / "start")
    assert command(model__start=str(start), training__steps=2) == 0
    tiny.bert(start, seed=5)
    assert command("--resume", model__start=str(start), training__steps=2) == 1
    assert "holds a run with weights" in capsys.readouterr().err


def spoil(monkeypatch, call, how):
    losses, calls = SparseTask.losses, []

    def spoilt(self, number, epoch):
        calls.append(number)
        found = losses(self, number, epoch)
        return found._replace(total=how(found.total)) if len(calls) == call else found

    monkeypatch.setattr(SparseTask, "losses", spoilt)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda total: total * float("nan"), "the loss of step 5 is nan"),
        (lambda total: total / 0, "the loss of step 5 is inf"),
        (lambda total: total + (total - total).sqrt(), "the gradient of step 5 is nan"),
    ],
    ids=["nan", "infinite", "gradient"],
)
def test_what_is_no_number_ends_the_run_and_the_last_good_checkpoint_and_model_stay(
    command, tmp_path, capsys, monkeypatch, how, told
):
    changes = {"training__save_every": 1, "training__evaluate_every": 1}
    with monkeypatch.context() as patch:
        spoil(patch, 5, how)
        assert command(**changes) == 1
    said = capsys.readouterr().err
    assert told in said
    assert "train anew with a lower learning rate than 0.001" in said
    folder = tmp_path / "out"
    assert [path.name for path in (folder / "run").glob("checkpoint-*")] == ["checkpoint-00000004"]
    assert [line["step"] for line in steps(folder)] == [1, 2, 3, 4]
    assert_opens_alike(folder / "model")


def test_a_collapse_ends_the_run_with_a_sentence(command, tmp_path, capsys):
    changes = {
        "model__head": "tied",
        "model__threshold": 1000.0,  # nothing passes it
        "model__encoder": {"max_length": 30},
        "loss__document_terms": 0,
        "training__steps": 150,
        "training__evaluate_every": 0,
        "training__save_every": 50,
    }
    assert command(**changes) == 1
    said = capsys.readouterr().err
    assert "documents had 0.0 of" in said
    assert "fewer than 1 in each of 100 steps: the sparsity weight of documents, now " in said
    assert len(said.strip().splitlines()) == 1
    assert [path.name for path in (tmp_path / "out" / "run").glob("checkpoint-*")] == ["checkpoint-00000050"]


def test_what_is_wrong_before_training_is_told_in_one_line(command, tmp_path, capsys):
    small = tiny.bert(tmp_path / "small", vocab_size=len(tiny.WORDPIECES) - 1)
    capsys.readouterr()
    for changes, told in (
        ({"model__start": str(small)}, "numbers its tokens up to"),
        ({"model__start": "nowhere/to-be-found"}, "nowhere/to-be-found"),
        ({"data__folder": str(tmp_path / "nothing")}, "nothing"),
        ({"data__negatives": str(tmp_path / "nothing.jsonl")}, "nothing.jsonl does not exist"),
        ({"teachers": [{"name": f"scores:{tmp_path / 'none.tsv'}"}]}, "none.tsv"),
        ({"model__encoder": {}}, "does not say how logits become weights"),
        ({"loss__answer": 2}, "[loss] has 'answer'"),
    ):
        assert command(**changes) == 1
        said = capsys.readouterr().err.strip()
        assert told in said
        assert len(said.splitlines()) == 1
        assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_settings_of_the_command_line_stand_in_place_of_the_recipes(command, tmp_path, capsys):
    given = ["--set", "training.steps=2", "--set", "loss.teacher_weights=[2]", "--set", "model.encoder.max_length=20"]
    assert command(*given, training__evaluate_every=0) == 0
    described = json.loads((tmp_path / "out" / "run" / "run.json").read_text())
    assert described["steps"] == 2
    assert described["teacher_weights"] == [2]
    assert described["encoder"] == {"activation": "log1p", "max_length": 20}
    assert command("--set", 'teachers=[{"name": "bm25", "weight": 3}]', "--set", "training.steps=1", out="more") == 0
    assert json.loads((tmp_path / "more" / "run" / "run.json").read_text())["teacher_weights"] == [3]
    capsys.readouterr()
    for wrong, told in (
        ("training.steps", "is not NAME=VALUE; write it as training.steps=100"),
        ("=3", "is not NAME=VALUE"),
        ("teachers.4.weight=3", "'teachers.4.weight' cannot be set"),
        ("training.steps=many", "steps is 'many'; it must be of type int"),
    ):
        assert command("--set", wrong, out="other") == 1
        assert told in capsys.readouterr().err
