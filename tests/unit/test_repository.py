"""What must stay true of the source as a whole."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

LAYERS = ["kernels", "index", "retrieval", "eval", "winnow"]  # each may import those before it
SOURCES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


def run_python(code, *, path="", folder=ROOT):
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(source):
    tree = ast.parse(source.read_text())
    layer = LAYERS.index(source.relative_to(ROOT).parts[0])
    for module in imported_modules(tree):
        top = module.split(".")[0]
        assert top not in LAYERS or LAYERS.index(top) <= layer, f"{source} imports {module} against the direction"


WRITERS = {"os.replace", "os.rename", "os.fsync", "os.unlink", "os.remove", "os.rmdir", "os.mkdir", "os.makedirs", "os.write",
           "os.truncate", "os.ftruncate", "os.posix_fallocate", "os.link", "os.symlink", "np.save", "np.savez",
           "np.lib.format.open_memmap"}  # fmt: skip
WRITING_METHODS = {"write_text", "write_bytes", "touch", "tofile", "rmtree", "copyfile", "copytree"}


def writing_calls(tree):
    """What opens a file for writing, or changes a folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and "shutil" in imported_modules(node):
            yield "shutil"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        mode = [*(node.args[1:2] if name == "open" else node.args[:1] if name.endswith(".open") else [])]
        mode += [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
        is_for_writing = any(isinstance(each, ast.Constant) and set("wax+") & set(str(each.value)) for each in mode)
        opens = name == "open" or name.endswith(".open")
        if name in WRITERS or name.split(".")[-1] in WRITING_METHODS or (opens and is_for_writing):
            yield name


@pytest.mark.parametrize(
    "source",
    [path for path in SOURCES if path.relative_to(ROOT).parts[0] in LAYERS[:3] and path.name != "files.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_only_one_file_writes_to_the_disk(source):
    assert list(writing_calls(ast.parse(source.read_text()))) == []


def test_the_writing_test_sees_what_writes():
    code = "import shutil; open(x, 'wb'); open(x, mode='r+'); p.open('a'); os.replace(a, b); p.write_text(''); open(y)"
    assert list(writing_calls(ast.parse(code))) == ["shutil", "open", "open", "p.open", "os.replace", "p.write_text"]


def test_the_direction_test_sees_a_wrong_import():
    assert list(imported_modules(ast.parse("from retrieval.hits import Hit\nimport eval.beir"))) == [
        "retrieval.hits",
        "eval.beir",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import retrieval"],
        ["-m", "winnow", "--help"],
        ["-m", "winnow", "index", "--help"],
        ["-m", "winnow", "search", "--help"],
        ["-m", "winnow", "eval", "--help"],
        ["-m", "winnow", "train", "blockrank", "--help"],
        ["-m", "winnow", "pairs", "--help"],
        ["-m", "winnow", "mine", "--help"],
        ["-m", "winnow", "export", "--help"],
        ["-m", "winnow", "demo", "--help"],
        ["-m", "eval.beir", "--help"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported_until_needed(arguments):
    watched = [sys.executable, "-X", "importtime", *arguments]
    started = time.perf_counter()
    finished = subprocess.run(watched, capture_output=True, text=True, cwd=ROOT)
    seconds = time.perf_counter() - started
    assert finished.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert not imported & {"numpy", "numba", "torch", "transformers", "faiss", "tokenizers", "nltk", "beir", "sqlite3"}
    assert seconds < 3  # typically 0.1; the bound only catches something heavy under another name


def test_searching_a_saved_inference_free_index_needs_no_torch(tmp_path):
    code = (
        "import sys; from retrieval import Retriever\n"
        "r = Retriever.from_pretrained(sys.argv[1]); print(r.search('moon')[0].doc_id)\n"
        "assert not {'torch', 'transformers', 'faiss', 'nltk'} & set(sys.modules)"
    )
    from retrieval import Retriever

    Retriever.from_pretrained("winnow-mini").index([{"_id": "a", "text": "moon"}], progress=False).save_pretrained(
        tmp_path / "i"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "i")]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout == "a\n"


def test_transformers_works_with_our_package_named_kernels_on_the_path():
    code = """
import kernels, torch, transformers
assert kernels.__file__.startswith(PATH), kernels.__file__
bert = transformers.BertModel(transformers.BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
ids = torch.tensor([[1, 2, 3]])
print(tuple(bert(ids).last_hidden_state.shape), tuple(llama(ids).logits.shape))
"""
    finished = run_python(code.replace("PATH", repr(str(ROOT))))
    assert finished.stdout == "(1, 3, 16) (1, 3, 50)\n", finished.stderr


@pytest.mark.parametrize("package", ["retrieval", "index", "eval.datasets"])
def test_beside_the_hugging_face_package_of_the_same_name_importing_ours_says_what_to_do(tmp_path, package):
    metadata = tmp_path / "kernels-0.20.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.20.1\n")
    finished = run_python(f"import {package}", path=str(tmp_path))
    assert finished.returncode == 1
    last_line = finished.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: The Hugging Face package kernels 0.20.1 is installed")
    assert "pip uninstall kernels" in last_line
    for command in ("winnow", "eval.beir"):
        told = subprocess.run(
            [sys.executable, "-m", command, "--help"], capture_output=True, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert told.returncode == 1
        assert told.stderr.startswith(f"{command}: The Hugging Face package kernels 0.20.1 is installed")
        assert len(told.stderr.splitlines()) == 1


def test_kernels_run_where_machine_code_cannot_be_kept(tmp_path):
    """A read-only installation without a home folder, as in containers: simulated by numba finding no place."""
    code = (
        "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []\n"
        "from retrieval import Retriever\n"
        "r = Retriever.from_pretrained('bm25').index([{'_id': 'a', 'text': 'tea'}], progress=False)\n"
        "print(r.search('tea')[0].doc_id)"
    )
    finished = run_python(code)
    assert finished.stdout == "a\n", finished.stderr


def test_every_public_module_says_what_it_is_for():
    for source in SOURCES:
        assert ast.get_docstring(ast.parse(source.read_text())), source


def test_public_names_are_the_documented_ones():
    import retrieval

    assert sorted(retrieval.__all__) == sorted(retrieval.HOMES)
    for name in retrieval.__all__:
        assert getattr(retrieval, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Searcher'"):
        _ = retrieval.Searcher


def test_the_versions_are_pinned_and_torch_stands_on_the_install_line():
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    assert {"torch", "transformers", "numpy", "numba", "faiss-cpu", "beir", "pytest"} <= pinned
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    (install,) = [line for line in installs if "--editable" in line]
    assert "torch==2.13.0" in install
    assert all("==" in line for line in installs)
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_ci_calls_make_test_and_installs_nothing_itself():
    commands = [line for line in Path(ROOT / ".ci" / "run").read_text().splitlines() if line and line[0] != "#"]
    assert commands[-1] == "make test"
    assert not any("install" in command for command in commands)
