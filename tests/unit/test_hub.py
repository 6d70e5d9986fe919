"""What is fetched from the hub, which is played by a folder and the hub's own rule for patterns."""

import shutil

import huggingface_hub
import pytest
import tiny_checkpoints as tiny
from huggingface_hub.utils import filter_repo_objects

from index.errors import ModelError
from retrieval import LearnedSparseEncoder, Retriever

pytestmark = pytest.mark.usefixtures("one_thread")

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of the repository somebody/model, where what was fetched lies, the revisions asked for, and the newest commit."""
    repository, cache = tmp_path / "repository", tmp_path / "cache" / "snapshots"
    repository.mkdir()
    asked, newest = [], [COMMIT]

    def download(name, *, revision, allow_patterns):
        assert name == "somebody/model"
        asked.append(revision)
        commit = revision or newest[0]
        paths = [str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()]
        for path in filter_repo_objects(paths, allow_patterns=allow_patterns) if commit == newest[0] else ():
            target = cache / commit / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / path, target)
        return str(cache / commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return repository, cache, asked, newest


def names(cache):
    return {str(path.relative_to(cache / COMMIT)) for path in (cache / COMMIT).rglob("*") if path.is_file()}


def load(**options):
    return LearnedSparseEncoder.from_pretrained("somebody/model", activation="log1p", **options)


def test_pickles_and_code_are_not_fetched_where_they_are_not_needed(hub):
    repository, cache, *_ = hub
    tiny.bert(repository)
    for extra in ("pytorch_model.bin", "own.py", "onnx/model.onnx", "README.md", "tf_model.h5"):
        (repository / extra).parent.mkdir(exist_ok=True)
        (repository / extra).write_bytes(b"large")
    assert len(load().encode_queries(["moon"]).indices)
    assert names(cache) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}


def test_a_pickle_is_fetched_for_each_model_that_has_nothing_else(hub):
    """As naver's and prithivida's repositories; a table beside it is safetensors."""
    repository, cache, *_ = hub
    tiny.bert(repository)
    LearnedSparseEncoder.from_pretrained(repository, activation="log1p", queries="binary").save_pretrained(
        repository / "m"
    )
    for path in (repository / "m").iterdir():
        shutil.move(path, repository / path.name)
    tiny.as_pickle(repository / "document_0_Transformer")
    (repository / "pytorch_model.bin").write_bytes(b"beside the safetensors of the root")
    assert len(load().encode_texts(["moon"]).indices)
    assert "document_0_Transformer/pytorch_model.bin" in names(cache)
    assert "pytorch_model.bin" not in names(cache)
    assert "query_0_SparseStaticEmbedding/model.safetensors" in names(cache)


def test_code_is_fetched_where_it_may_run(hub):
    repository, cache, asked, _ = hub
    tiny.bert(repository)
    (repository / "own.py").write_text("")
    trusted = {"trust_remote_code": True, "revision": COMMIT}
    load(**trusted)
    assert "own.py" in names(cache)
    assert set(asked) == {COMMIT}


def test_an_index_asks_for_the_commit_that_it_was_built_with(hub, tmp_path):
    repository, _, asked, newest = hub
    tiny.bert(repository)
    retriever = Retriever.from_pretrained("somebody/model", activation="log1p")
    retriever.index([{"_id": "a", "text": "moon"}], progress=False).save_pretrained(tmp_path / "i", progress=False)
    assert asked[0] is None
    assert set(asked[1:]) == {COMMIT}
    tiny.bert(repository, seed=4)
    newest[0] = COMMIT[::-1]
    assert Retriever.from_folder(tmp_path / "i").search("moon") == retriever.search("moon")
    assert asked[-1] == COMMIT
    assert (
        load().encode_queries(["moon"]).data.tolist()
        != retriever._opened.encoders[0].encode_queries(["moon"]).data.tolist()
    )


def test_a_repository_that_has_gone_is_told_with_what_is_needed(hub, tmp_path, monkeypatch):
    repository, *_ = hub
    tiny.bert(repository)
    retriever = Retriever.from_pretrained("somebody/model", activation="log1p", queries="binary")
    retriever.index([{"_id": "a", "text": "moon"}], progress=False).save_pretrained(tmp_path / "i", progress=False)

    def gone(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("gone")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gone)
    with pytest.raises(
        ModelError, match=r"somebody/model is no folder here, and the hub did not give it \(LocalEntryNotFoundError\)"
    ):
        load()
    opened = Retriever.from_folder(tmp_path / "i")
    assert opened.search("moon") == retriever.search("moon")
    opened.add([{"_id": "b", "text": "sea"}], progress=False)
    with pytest.raises(
        ModelError, match="the index was built with the model somebody/model, which cannot be had any more"
    ):
        opened.commit(progress=False)
