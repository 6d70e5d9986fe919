"""What is wrong with a checkpoint is told in one sentence; nothing of it is run."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from tiny_checkpoints import WORDPIECES, edit_json, write_json
from transformers import AutoModel

from index.errors import ModelError, WinnowError
from retrieval import LearnedSparseEncoder, Retriever
from retrieval.encoders.model_files import ModelFiles
from winnow.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRUSTED = {"trust_remote_code": True, "revision": COMMIT}  # of checkpoints whose code the tests themselves write


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return tiny.bert(tmp_path_factory.mktemp("sound") / "tiny")


@pytest.fixture
def folder(sound, tmp_path):
    """A copy to break."""
    shutil.copytree(sound, tmp_path / "tiny")
    return tmp_path / "tiny"


def load(folder, **options):
    return LearnedSparseEncoder.from_pretrained(folder, **{"activation": "log1p", **options})


def encode(folder, **options):
    return load(folder, **options).encode_queries(["moon"])


def assert_told(error):
    """One sentence that ends, with nothing of a traceback in it."""
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 600


def without_head(folder):
    AutoModel.from_pretrained(folder).save_pretrained(folder)


def without_keys_of_the_head(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("cls.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def with_a_larger_tokenizer(folder):
    tokens = json.loads((folder / "tokenizer.json").read_text())
    tokens["model"]["vocab"]["extra"] = len(WORDPIECES)
    write_json(folder / "tokenizer.json", tokens)


def with_other_sizes(folder):
    edit_json(folder / "config.json", hidden_size=64)


def with_a_pickle_of_more_than_tensors(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Marker(folder / "ran")}, folder / "pytorch_model.bin")


class Marker:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write(name, text):
    def change(folder):
        (folder / name).write_text(text)

    return change


def remove(name):
    return lambda folder: (folder / name).unlink()


def edit(name, **changes):
    return lambda folder: edit_json(folder / name, **changes)


BROKEN = {
    "no head": (without_head, r"is a BertModel, which has no vocabulary head; a sparse encoder is a \.\.\.ForMaskedLM"),
    "a head without weights": (without_keys_of_the_head, r"lacks 6 of the weights of BertForMaskedLM, cls\.predictions\.bias first"),
    "another architecture": (edit("config.json", architectures=["BertForSequenceClassification"]), r"is a BertForSequenceClassification"),
    "an unknown architecture": (edit("config.json", model_type="nonsense"), r"cannot be loaded \(ValueError: .*nonsense"),
    "no architecture": (edit("config.json", architectures=None), r"is a model of a class that config.json does not name"),
    "architectures of another type": (edit("config.json", architectures={"a": 1}), r"a class that config.json does not name"),
    "a larger tokenizer": (with_a_larger_tokenizer, r"numbers its tokens up to \d+, the model has \d+ terms; they are of different models"),
    "other sizes": (with_other_sizes, r"has bert\.embeddings\..* of shape \(.*, its config\.json asks for \("),
    "no weights": (remove("model.safetensors"), r"holds no weights \(model.safetensors\)"),
    "weights cut off": (write("model.safetensors", "\x05garbage"), r"cannot be loaded \(SafetensorError"),
    "a pickle of more than tensors": (with_a_pickle_of_more_than_tensors, r"cannot be loaded \(UnpicklingError: a pickle of more than tensors, which could run code\)"),
    "no configuration": (remove("config.json"), r"config.json is missing; the checkpoint is not complete"),
    "configuration that is no JSON": (write("config.json", "{'vocab_size': 1}"), r"config.json cannot be read \(Expecting property"),
    "configuration that is no object": (write("config.json", "[1]"), r"config.json holds list where an object is needed"),
    "configuration nested too deep": (write("config.json", '{"a":' * 100_000), r"config.json cannot be read \(maximum recursion"),
    "no size of the vocabulary": (edit("config.json", vocab_size=None), r"has the vocab_size None; it must be a whole number"),
    "a vocabulary without end": (edit("config.json", vocab_size=10**15), r"has the vocab_size 1000000000000000; .* to 16,777,216"),
    "no tokenizer": (lambda folder: [path.unlink() for path in (*folder.glob("tok*"), folder / "vocab.txt")], r"has no tokenizer that can be read \(no word is in its vocabulary\)"),
    "tokenizer that is none": (write("tokenizer.json", "{}"), r"tokenizer.json cannot be read"),
    "query weights of other tokens": (write("idf.json", '{"elsewhere": 1}'), r"idf.json has a weight for 'elsewhere', which the tokenizer does not know"),
    "query weights that are texts": (write("idf.json", '{"moon": "1"}'), r"idf.json has the weight '1' for 'moon'; it must be a number"),
    "query weights below zero": (write("idf.json", '{"moon": -1}'), r"query weight of term \d+ is -1\.0; it must be a finite number"),
    "query weights without end": (write("idf.json", '{"moon": Infinity}'), r"has the weight inf for .*; it must be a number"),
    "query weights without a tab": (write("query_token_weights.txt", "moon 1\n"), r"has a line that is not a token, a tab and a number"),
    "modules that are no list": (write("modules.json", "7"), r"modules.json is no list of modules"),
    "modules without a type": (write("modules.json", '[{"path": ""}]'), r"modules.json is no list of modules \('type'\)"),
    "modules outside": (write("modules.json", '[{"type": "a.Transformer", "path": "../../etc"}, {"type": "a.SpladePooling", "path": ""}]'),
                        r"names '../../etc', which is outside of it"),
    "a router without routes": (write("modules.json", '[{"type": "a.Router", "path": ""}]'), r"does not describe routes \('types'\)"),
    "no modules": (write("modules.json", "[]"), r"has the modules of none; a sparse encoder"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_wrong_with_a_checkpoint_is_told(folder, broken):
    change, sentence = BROKEN[broken]
    change(folder)
    with pytest.raises(ModelError, match=sentence) as error:
        encode(folder)
    assert_told(error)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(("options", "sentence"), [
    ({"pool": "max"}, r"there is no model option 'pool'; there are base_model, .*, and for both sides or one .*activation"),
    ({"query_pool": "max"}, r"there is no model option 'query_pool'"),
    ({"activation": "relu"}, r"activation is 'relu'; it must be one of log1p, log1p_log1p"),
    ({"pooling": "cls"}, r"pooling is 'cls'; it must be one of max, sum, mean, last"),
    ({"max_length": 0}, r"max_length is 0; it must be a whole number from 1"),
    ({"max_length": True}, r"max_length is True; it must be a whole number"),
    ({"max_length": 2}, r"max_length is 2; special tokens alone take that much"),
    ({"max_length": 41}, r"max_length is 41, but .* has 40 positions, the prompt included; give fewer"),
    ({"query_top_k": 0.5}, r"top_k is 0\.5; it must be a whole number"),
    ({"query_top_k": 0, "queries": "binary"}, r"top_k is 0; it must be a whole number"),
    ({"query_prefix": 3, "queries": "binary"}, r"prefix is 3; it must be a text"),
    ({"prune_ratio": 1}, r"prune_ratio is 1; it must be a number from 0 to below 1"),
    ({"threshold": float("nan")}, r"threshold is nan"),
    ({"queries": "idf"}, r"queries is 'idf'; it must be one of model, table, binary"),
    ({"queries": "table"}, r"has no query token weights \(idf.json or query_token_weights.txt\); give queries='binary' or 'model'"),
    ({"query_model": 5}, r"query_model is 5; it must be a text"),
    ({"query_model": "no such folder"}, r"'no such folder' is neither a folder with an index or a checkpoint nor a known model"),
    ({"trust_remote_code": "yes"}, r"trust_remote_code is 'yes'; it must be one of True, False"),
    ({"impacts": "u9"}, r"impacts is 'u9'; it must be one of"),
])  # fmt: skip
def test_a_bad_option_is_told_with_its_value(sound, options, sentence):
    with pytest.raises(WinnowError, match=sentence) as error:
        load(sound, **options)
    assert_told(error)


@pytest.mark.parametrize(
    "name", ["../other", "a/../b", "no-such", "x" * 5000, "nul\0", "~/model", "/no/such/folder", "a/b/c"]
)
def test_a_name_that_is_no_model_is_told(name):
    for way_in in (load, Retriever.from_pretrained):
        with pytest.raises(
            WinnowError,
            match=r"is neither a folder with an index or a checkpoint nor a known model; known are bm25, mini",
        ) as error:
            way_in(name)
        assert_told(error)


def test_no_name_at_all_is_told():
    with pytest.raises(WinnowError, match="the arms of a system are '', one of them without a name"):
        Retriever.from_pretrained("")


@pytest.mark.parametrize("name", ["nobody/no-such-model", "splade-v3", "x/.."])
@pytest.mark.filterwarnings("ignore::retrieval.encoders.registry.LicenceWarning")
def test_without_a_network_one_sentence_says_so(name, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelError, match=r"is no folder here, and the hub did not give it \(\w+\); connect to a network"
    ) as error:
        load(name)
    assert_told(error)


@pytest.mark.parametrize(
    "broken", ["no head", "configuration that is no JSON", "weights cut off", "an unknown architecture"]
)
def test_the_command_shows_no_traceback_and_leaves_no_index(folder, tmp_path, capsys, broken):
    BROKEN[broken][0](folder)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "moon"}\n')
    command = [
        "index",
        str(tmp_path / "corpus.jsonl"),
        "--out",
        str(tmp_path / "i"),
        "--no-progress",
        "-o",
        "activation=log1p",
    ]
    assert main([*command, "--model", str(folder)]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("winnow index: ")
    assert "Traceback" not in told
    assert "unexpected" not in told
    assert not (tmp_path / "i" / "manifest.json").exists()


def indexed(folder, path, **options):
    retriever = Retriever.from_pretrained(folder, activation="log1p", **options)
    retriever.index([{"_id": "a", "text": "moon and sea"}, {"_id": "b", "text": "bread"}], progress=False)
    retriever.save_pretrained(path, progress=False)
    return retriever.search("bread")


def test_an_index_whose_model_is_gone_is_searched_where_queries_need_none(folder, tmp_path):
    hits = indexed(folder, tmp_path / "i", queries="binary")
    shutil.move(folder, tmp_path / "elsewhere")
    opened = Retriever.from_folder(tmp_path / "i")
    assert opened.search("bread") == hits
    opened.add([{"_id": "c", "text": "salt"}], progress=False)
    with pytest.raises(
        ModelError, match=rf"the index was built with the model {folder}, which cannot be had any more; bring it back"
    ) as error:
        opened.commit(progress=False)
    assert_told(error)
    assert opened.search("bread") == hits


def test_an_index_whose_query_model_is_gone_says_so(folder, tmp_path):
    indexed(folder, tmp_path / "i")
    shutil.move(folder, tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"which cannot be had any more"):
        Retriever.from_folder(tmp_path / "i").search("bread")


def test_an_index_of_a_model_by_a_relative_name_is_searched_from_anywhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    hits = indexed("tiny", tmp_path / "i")
    monkeypatch.chdir("/")
    assert Retriever.from_folder(tmp_path / "i").search("bread") == hits


def test_an_index_of_other_weights_neither_grows_nor_answers(folder, tmp_path):
    indexed(folder, tmp_path / "i")
    tiny.bert(folder, seed=1)
    opened = Retriever.from_folder(tmp_path / "i")
    with pytest.raises(
        ModelError,
        match=r"the index was built with weights and config [0-9a-f]{12}\.\.\., .* has [0-9a-f]{12}\.\.\.; index all",
    ):
        opened.search("bread")
    opened.add([{"_id": "c", "text": "salt"}], progress=False)
    with pytest.raises(ModelError, match="the index was built with weights"):
        opened.commit(progress=False)


def test_weights_changed_under_a_loaded_model_are_seen(folder):
    """As by somebody who trains on, in the process that searches."""
    before = load(folder)
    first = before.encode_queries(["moon"])
    tiny.bert(folder, seed=1)
    after = load(folder)
    assert not np.array_equal(after.encode_queries(["moon"]).data, first.data)
    np.testing.assert_array_equal(before.encode_queries(["moon"]).data, first.data)
    fingerprints = [encoder.document.files.describe()["fingerprint"] for encoder in (before, after)]
    assert fingerprints[0] != fingerprints[1], "an index names the weights that encoded it"


CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import BertConfig, BertForMaskedLM
class OwnConfig(BertConfig):
    model_type = "own"
class OwnForMaskedLM(BertForMaskedLM):
    config_class = OwnConfig
"""


def with_code(folder, model_type="own"):
    """A checkpoint that brings Python along; it writes a file when it is run."""
    marker = folder / "ran"
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForMaskedLM": "own.OwnForMaskedLM"}
    edit_json(folder / "config.json", auto_map=classes, model_type=model_type, architectures=["OwnForMaskedLM"])
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]})
    return marker


@pytest.mark.parametrize("model_type", ["own", "bert"])
def test_code_of_a_checkpoint_is_not_run(folder, model_type):
    marker = with_code(folder, model_type)
    if model_type == "own":
        with pytest.raises(ModelError, match=r"cannot be loaded \(ValueError: .*custom code") as error:
            encode(folder)
        assert "\n" not in str(error.value)
    else:
        assert len(encode(folder).indices)  # by the library's own class
    assert not marker.exists()


def test_code_is_run_only_of_a_commit(folder, monkeypatch, tmp_path):
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    expected = encode(folder)
    marker = with_code(folder)
    for revision in (None, "main", "v1.0", COMMIT[:12]):
        with pytest.raises(
            ModelError, match=rf"revision is {revision!r}; give the commit that you have read, all 40 digits of it"
        ):
            load(folder, **{**TRUSTED, "revision": revision})
    assert not marker.exists()
    found = encode(folder, **TRUSTED)
    np.testing.assert_array_equal(found.data, expected.data)
    assert marker.exists()


def test_code_of_another_repository_is_refused_whatever_the_revision(folder):
    with_code(folder)
    edit_json(folder / "config.json", auto_map={"AutoModelForMaskedLM": "somebody/else--own.OwnForMaskedLM"})
    with pytest.raises(ModelError, match=r"runs the code 'somebody/else--own.OwnForMaskedLM' of another repository"):
        load(folder, **TRUSTED)


def test_the_leave_to_run_code_is_of_one_checkpoint(folder, sound, tmp_path, monkeypatch):
    marker = with_code(folder)
    encoder = load(sound, query_model=str(folder), **TRUSTED)
    assert not encoder.query.files.trust_remote_code
    with pytest.raises(ModelError, match=r"cannot be loaded"):
        encoder.encode_queries(["moon"])
    assert not marker.exists()


def test_an_index_is_no_leave_to_run_code(folder, tmp_path, monkeypatch):
    """Whoever sends an index could name any checkpoint in it."""
    indexed(folder, tmp_path / "i")
    marker = with_code(folder)
    true = ModelFiles.read.__func__
    monkeypatch.setattr(
        ModelFiles,
        "read",
        classmethod(lambda cls, description: true(cls, {**description, **TRUSTED, "fingerprint": None})),
    )
    with pytest.raises(ModelError, match="custom code"):
        Retriever.from_folder(tmp_path / "i").search("bread")
    assert not marker.exists()


def test_a_folder_with_anything_else_in_it_is_not_replaced(folder, tmp_path):
    encoder = load(folder)
    encoder.save_pretrained(tmp_path / "m")
    encoder.save_pretrained(tmp_path / "m")  # its own kind is
    for name in ("thesis.md", ".git/config", "notes/modules.txt"):
        (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_text("mine")
        with pytest.raises(WinnowError, match="which is not of a model; give a new or empty folder"):
            encoder.save_pretrained(tmp_path / "m")
        assert (tmp_path / "m" / name).read_text() == "mine"
        (tmp_path / "m" / name).unlink()
        if "/" in name:
            (tmp_path / "m" / name).parent.rmdir()


def test_files_that_change_while_a_model_is_in_use_are_noticed(folder):
    encoder = load(folder)
    before = encoder.encode_texts(["moon"]).data
    other = load(folder, query_dtype="bfloat16")  # a model of its own for queries, read when the first one comes
    other.encode_texts(["moon"])
    edit("config.json", num_attention_heads=1)(folder)
    with pytest.raises(ModelError, match="have changed since it was loaded"):
        other.encode_queries(["moon"])
    assert encoder.encode_texts(["moon"]).data.tolist() == before.tolist()  # what is in memory stays
    assert load(folder).encode_texts(["moon"]).data.tolist() != before.tolist()


def test_a_file_of_weights_that_no_library_reads_is_not_read(folder):
    before = load(folder).encode_texts(["moon water"]).data.tolist()
    (folder / "model_old.safetensors").write_bytes(b"not even tensors")
    assert load(folder).encode_texts(["moon water"]).data.tolist() == before


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"do_lower_case": False}, "has do_lower_case = False, tokenizer.json has True"),
        ({"truncation_side": "left"}, "on the 'left' side"),
    ],
)
def test_tokenizer_files_that_contradict_each_other_are_refused(folder, settings, told):
    edit("tokenizer_config.json", **settings)(folder)
    with pytest.raises(ModelError, match=told):
        load(folder)


@pytest.mark.parametrize("given", [[None], [b"x"], ["\ud800"], 3, "moon"])
def test_texts_that_are_none_are_told(folder, given):
    encoder = load(folder)
    for encode in (encoder.encode_texts, encoder.encode_queries):
        with pytest.raises(WinnowError, match=r"it must be a (list of )?string|is not valid Unicode"):
            encode(given)
