"""`winnow train blockrank`: what a person gives it, what it says, what is left behind."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from decoders_for_tests import save_decoder

from index.errors import WinnowError
from retrieval.rerankers.settings import BlockRankSettings
from retrieval.training.block_rank import BlockRankTask
from winnow.cli import main
from winnow.train_blockrank import parse_data

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
WORDS = ("moon", "tide", "bread", "salt", "water", "yeast", "flour", "sea")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    found = save_decoder(tmp_path_factory.mktemp("tiny"), "llama", num_hidden_layers=3)
    written = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, "bos_token": "<|begin_of_text|>"}
    (found / "tokenizer_config.json").write_text(json.dumps({**written, "eos_token": "<|im_end|>"}))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A document says two words; a query asks for one of them. The last two queries are kept for testing."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "qrels").mkdir()
    documents = [
        {"_id": f"d{i}", "title": f"t{i}", "text": f"{one} {other}"}
        for i, (one, other) in enumerate(zip(WORDS, (*WORDS[1:], WORDS[0]), strict=True))
    ]
    queries = [{"_id": f"q{i}", "text": word} for i, word in enumerate(WORDS)]
    for name, lines in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, kept in (("train", range(6)), ("test", range(6, 8)), ("all", range(8))):
        lines = "".join(f"q{i}\td{i}\t1\n" for i in kept)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


@pytest.fixture
def command(model, data, tmp_path):
    def run(*more, given=None, out="out"):
        written = ["--documents", "2", "--held-out", "2", "--document-tokens", "80", "--lr", "0.01", "--no-progress"]
        written += ["--steps", "4", "--evaluate-every", "2", "--save-every", "1", "--accumulation", "2"]
        return main(
            [
                "train",
                "blockrank",
                "--model",
                str(model),
                "--data",
                str(given or data),
                "--out",
                str(tmp_path / out),
                *written,
                *more,
            ]
        )

    return run


def test_it_trains_a_model_that_is_saved_with_all_it_needs(command, tmp_path, capsys):
    assert command() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("train: 6 of 6 queries are of use")
    assert "contrastive loss, attention mode, score layer 2" in said[1]
    assert said[2] == "4 lists of 2 documents, 2 held out; 4 steps of 2"
    assert [line.split(":")[0] for line in said[3:6]] == ["step 0", "step 2", "step 4"]
    assert said[6].startswith("best at step ")
    saved = tmp_path / "out" / "model"
    assert said[7] == f"the model is {saved}: rerank with blockrank:{saved}"
    settings = BlockRankSettings.open(saved)
    assert (settings.score_layer, settings.document_tokens) == (2, 80)
    log = [json.loads(line) for line in (tmp_path / "out" / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert {"contrastive", "P@1", "mass", "tokens", "seconds", "gradient_norm", "documents_cut"} <= set(steps[0])


def test_the_saved_model_reranks(command, tmp_path):
    from retrieval.rerankers.block_rank import BlockRankReranker

    assert command() == 0
    ranked = BlockRankReranker.from_pretrained(tmp_path / "out" / "model").rank("moon", ["bread", "moon tide", "sea"])
    assert sorted(one.index for one in ranked) == [0, 1, 2]
    assert sum(one.mass for one in ranked) == pytest.approx(1, abs=1e-6)


def test_interrupted_it_says_how_to_go_on_and_goes_on(command, tmp_path, capsys, monkeypatch):
    assert command(out="whole") == 0
    whole = (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()
    losses = BlockRankTask.losses
    left = [6]

    def interrupted(self, number, epoch):
        left[0] -= 1
        if left[0] == 0:  # the second list of the third step
            raise KeyboardInterrupt
        return losses(self, number, epoch)

    monkeypatch.setattr(BlockRankTask, "losses", interrupted)
    assert command(out="cut") == 130
    assert "with --resume goes on after the last checkpoint" in capsys.readouterr().err
    monkeypatch.undo()
    torch.manual_seed(1234)
    assert command(out="cut") == 1
    assert "holds a training run; resume it" in capsys.readouterr().err
    assert command("--resume", out="cut") == 0
    assert (tmp_path / "cut" / "model" / "model.safetensors").read_bytes() == whole
    assert command("--resume", "--lr", "0.02", out="cut") == 1
    assert "holds a run with learning_rate 0.01, this one has 0.02" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ("--mode", "full", "--published-prompt"),
        ("--loss", "irpo", "--reference", "--lora", "2"),
        ("--gradient-checkpointing", "--frozen-layers", "1", "--schedule", "linear", "--precision", "bfloat16"),
        ("--query-free", "--evaluate-every", "0"),
    ],
    ids=" ".join,
)
def test_its_ways_of_training(command, tmp_path, more):
    assert command(*more) == 0
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    settings = BlockRankSettings.open(tmp_path / "out" / "model")
    assert settings.is_query_free == ("--published-prompt" not in more)
    assert settings.signal_tokens == ((-2, -1) if "--published-prompt" in more else "query")


def test_data_of_several_kinds_with_settings_of_their_own(command, data, tmp_path, capsys):
    lists = tmp_path / "lists.jsonl"
    lines = [{"query": word, "documents": [word, "x"], "answer_ids": [0]} for word in WORDS]
    lists.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command("--data", f"{lists},limit=3", given=f"{data},split=all,exclude-titles-of=test") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("all: 5 of 8 queries are of use")  # moon's only negative says sea too, which is tested
    assert said[2].startswith("6 lists of 2 documents, 2 held out")


def test_data_is_taken_apart():
    assert parse_data("a/b", "train", None) == (Path("a/b"), "train", None, None)
    assert parse_data("x,limit=5,split=all", "train", "test")[1:] == ("all", "test", 5)
    for written, message in (
        ("x,size=3", "has 'size=3'; after a comma it may have split=, exclude-titles-of=, limit="),
        ("x,limit=0", "has the limit '0'; it must be a whole number above 0"),
        ("x,split=", "has 'split='"),
    ):
        with pytest.raises(WinnowError, match=message):
            parse_data(written, "train", None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--steps", "0"), "the steps of a training run is 0"),
        (("--loss", "hinge"), "loss is 'hinge'; it must be contrastive or irpo"),
        (("--reference",), "--reference is given with the loss contrastive; only irpo has one"),
        (("--mode", "full"), "in full mode the model is to answer with ids; give a prompt that has them"),
        (("--published-prompt", "--query-free"), "leave one out"),
        (("--held-out", "0"), "--held-out is 0; evaluation needs 1 or more"),
        (("--held-out", "6"), "6 lists are to be held out of 6"),
        (("--score-layer", "9"), "score_layer is 9, and"),
        (("--split", "dev"), "has no split 'dev'; its splits are all, test, train"),
        (("--frozen-layers", "3"), "3 of 3 layers are to be frozen"),
        (("--document-tokens", "5"), "document_tokens is 5"),
        (("--depth", "0"), "the depth of negatives is 0"),
        (("--device", "abacus"), "abacus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_told_in_a_sentence(command, capsys, more, message):
    assert command(*more) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert "unexpected" not in said


def test_event_files_are_asked_for(command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert command("--tensorboard") == 1
    assert "training needs the package tensorboard" in capsys.readouterr().err


def test_a_model_without_a_chat_template_is_told(command, model, tmp_path, capsys):
    plain = tmp_path / "plain"
    shutil.copytree(model, plain)
    (plain / "tokenizer_config.json").unlink()
    assert command("--model", str(plain)) == 1
    assert "has no chat template" in capsys.readouterr().err


def test_a_data_folder_that_is_none_is_told(command, tmp_path, capsys):
    assert command(given=tmp_path / "nothing") == 1
    assert "nothing is not a BEIR folder" in capsys.readouterr().err
