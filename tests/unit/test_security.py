"""Nothing that is read can execute code, load more than it holds, or reach for a network by being imported.

The one place for these rules: all our source, tests and benchmarks included, is searched for calls and imports that break
them; then what could not be seen that way is tried out.
"""

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import ROOT

from index.documents import Document, DocumentStore, as_document, checksum
from index.errors import CorpusError, IndexFormatError
from index.files import save_array
from index.storage import open_array
from retrieval.encoders import minilm

LAYERS = "kernels", "index", "retrieval", "eval", "winnow"
SOURCES = sorted(path for folder in (*LAYERS, "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))
MODULES = (
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "jsonpickle", "shelve", "marshal", "yaml", "runpy",
)  # fmt: skip
NETWORK = (  # beir and huggingface_hub are imported where somebody asked for a download
    "requests", "urllib3", "httpx", "aiohttp", "http.client", "http.server", "urllib.request", "ftplib", "telnetlib",
)  # fmt: skip
CALLS = (
    "eval", "exec", "compile", "__import__", "builtins.*", "os.system", "os.popen", "os.exec*", "os.spawn*", "tempfile.mktemp",
    "yaml.*", "pandas.read_pickle", "pd.read_pickle", "torch.hub.*", "torch.jit.load", "*.unsafe_load", "np.fromregex",
)  # fmt: skip
# code of a checkpoint is run where a user asked for it and gave the revision (retrieval.encoders.wishes.Wishes)
ASKED_FOR = ("trust_remote_code", "self.trust_remote_code", "wishes.trust_remote_code", "files.trust_remote_code")
SAFE_VALUES = {
    "allow_pickle": ("False",),
    "trust_remote_code": ("False", *ASKED_FOR),
    "weights_only": ("True",),
    "shell": ("False",),
}
NEEDED = {"np.load": "allow_pickle", "numpy.load": "allow_pickle", "torch.load": "weights_only"}
LOADERS = "np.load", "numpy.load"
FROM_HUB = "snapshot_download", "hf_hub_download"


def faults(source, is_layer=True):
    """What the text of a module does that it must not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            forbidden = (*MODULES, *NETWORK) if is_layer else MODULES
            yield from (f"imports {module}" for module in modules if is_among(module, forbidden))
        if isinstance(node, ast.Call):
            yield from faults_of_call(node, is_layer)


def is_among(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


def faults_of_call(node, is_layer):
    name = ast.unparse(node.func)
    if any(fnmatch(name, pattern) for pattern in CALLS):
        yield f"calls {name}"
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    for keyword, safe in SAFE_VALUES.items():
        if given.get(keyword, safe[0]) not in safe:
            yield f"passes {keyword}={given[keyword]}"
    needed = NEEDED.get(name)
    if needed and needed not in given and (is_layer or name not in LOADERS):
        yield f"calls {name} without {needed}"
    if name.rpartition(".")[2] in FROM_HUB and "revision" not in given:
        yield f"calls {name} without a revision"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_can_execute_data(source):
    assert list(faults(source.read_text(), source.relative_to(ROOT).parts[0] in LAYERS)) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import pickle", "imports pickle"),
        ("from urllib.request import urlopen", "imports urllib.request"),
        ("def f():\n    import shelve", "imports shelve"),
        ("eval(x)", "calls eval"),
        ("os.execv(x, y)", "calls os.execv"),
        ("tempfile.mktemp()", "calls tempfile.mktemp"),
        ("yaml.load(x)", "calls yaml.load"),
        ("np.load(x)", "calls np.load without allow_pickle"),
        ("np.load(x, allow_pickle=True)", "passes allow_pickle=True"),
        ("np.load(x, allow_pickle=flag)", "passes allow_pickle=flag"),
        ("torch.load(x)", "calls torch.load without weights_only"),
        ("torch.load(x, weights_only=False)", "passes weights_only=False"),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", "passes trust_remote_code=True"),
        ("subprocess.run(x, shell=True)", "passes shell=True"),
        ("hub.snapshot_download(x)", "calls hub.snapshot_download without a revision"),
    ],
)
def test_each_of_these_would_be_seen(source, fault):
    assert list(faults(source)) == [fault]


def test_importing_everything_reaches_for_no_network():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES]
    names = [name.removesuffix(".__init__") for name in names if name.split(".")[0] in LAYERS]
    code = (
        "import sys, importlib\n"
        "def refuse(event, arguments):\n"
        "    assert event not in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname'), (event, arguments)\n"
        "sys.addaudithook(refuse)\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    imported = [name for name in names if name != "winnow.__main__"]
    if find_spec("triton") is None:
        imported = [name for name in imported if not name.startswith("kernels.gpu.")]
    finished = subprocess.run([sys.executable, "-c", code, *imported], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    assert len(imported) > 50


def test_what_comes_from_the_hub_is_of_one_revision(monkeypatch):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return "folder"

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    minilm.folder_from_hub()
    assert asked["name"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert re.fullmatch(r"[0-9a-f]{40}", asked["revision"])


def test_an_array_is_never_larger_than_its_file(tmp_path):
    file = tmp_path / "a.npy"
    for length, reason in ((30_000, "mmap length is greater"), (3, "buffer is smaller")):  # mapped, and read
        save_array(file, np.arange(length, dtype=np.int32))
        assert open_array(file, "int32", length).tolist() == list(range(length))
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(IndexFormatError, match=rf"a.npy cannot be read as an array \(ValueError\('{reason}"):
            open_array(file, "int32", length)
    with pytest.raises(IndexFormatError, match=r"a.npy holds int32 \(3,\), its index needs uint8 \(7,\)"):
        open_array(file, "uint8", 7)
    np.savez(tmp_path / "b.npz", a=np.arange(3))
    with pytest.raises(IndexFormatError, match=r"b.npz cannot be read as an array \(ValueError\(\"the magic string"):
        open_array(tmp_path / "b.npz", "int64", 3)
    file.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f")
    with pytest.raises(IndexFormatError, match=r"version \(2, 0\) instead of 1.0"):
        open_array(file, "int32", 3)


def test_fields_are_nested_no_deeper_than_can_be_read_anywhere():
    value = []
    for _ in range(98):
        value = [value]
    store = DocumentStore.of([Document("a", fields={"x": value})])
    assert next(iter(store)).fields == {"x": value}
    with pytest.raises(CorpusError, match=r"document 'a' has a field .*it is nested more than 100 deep"):
        DocumentStore.of([Document("a", fields={"x": [value]})])


@pytest.mark.parametrize("fields", ["{", "[" * 100_000])
def test_a_stored_document_with_the_right_checksum_that_is_none_is_refused(fields):
    with pytest.raises(IndexFormatError, match="document 7 has fields that are no JSON"):
        as_document((7, "a", "", "", fields, checksum("a", "", "", fields)))
