"""Sparse tensors in files: what sentence-transformers encodes is read as it is, and nothing that a file claims is believed."""

import io
import zipfile

import pytest
import tiny_checkpoints as tiny
import torch
from safetensors.torch import save_file

from index.errors import CorpusError
from retrieval import Retriever
from retrieval.vector_files import read_vectors

DENSE = torch.tensor([[0.0, 1.5, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.0]])
IDS, TERMS = ["a", "b", "é c"], ["milk", "tea", "##s", "moon"]
EXPECTED = {"a": {"tea": 1.5, "moon": 2.0}, "b": {}, "é c": {"milk": 0.25}}


def vectors_of(path):
    return {one.doc_id: one.vector for one in read_vectors(path).documents()}


@pytest.fixture
def named(tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(IDS) + "\n")
    (tmp_path / "terms.txt").write_text("\n".join(TERMS) + "\n")
    return tmp_path


def backwards(coo):
    """Not coalesced: entries in another order."""
    order = torch.arange(coo._nnz() - 1, -1, -1)
    return torch.sparse_coo_tensor(coo._indices()[:, order], coo._values()[order], coo.shape)


@pytest.mark.parametrize(
    "saved",
    [
        DENSE.to_sparse(), DENSE.to_sparse_csr(), backwards(DENSE.to_sparse()), DENSE.to(torch.bfloat16).to_sparse(),
        DENSE.half().to_sparse_csr(), [row.to_sparse() for row in DENSE],
        {"embeddings": DENSE.to_sparse(), "ids": IDS, "terms": TERMS},
    ],
    ids=["coo", "csr", "not-coalesced", "bfloat16", "float16", "list", "dictionary"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_what_torch_saved_is_read(named, saved, suffix):
    torch.save(saved, named / f"v{suffix}")
    assert vectors_of(named / f"v{suffix}") == EXPECTED


def test_names_within_the_file_go_before_those_beside_it(named):
    torch.save({"embeddings": DENSE.to_sparse(), "ids": ["x", "y", "z"]}, named / "v.pt")
    assert list(vectors_of(named / "v.pt").values()) == list(EXPECTED.values())
    assert list(vectors_of(named / "v.pt")) == ["x", "y", "z"]


def test_safetensors_hold_the_arrays_of_either_kind(named):
    csr, coo = DENSE.to_sparse_csr(), DENSE.to_sparse()
    arrays = {"crow_indices": csr.crow_indices(), "col_indices": csr.col_indices(), "values": csr.values()}
    save_file({name: array.contiguous() for name, array in arrays.items()}, named / "csr.safetensors")
    arrays = {"indices": coo.indices().contiguous(), "values": coo.values().half(), "size": torch.tensor(coo.shape)}
    save_file(arrays, named / "coo.safetensors")
    assert vectors_of(named / "csr.safetensors") == vectors_of(named / "coo.safetensors") == EXPECTED


def test_a_file_is_a_corpus_for_the_model_vectors(named):
    torch.save(DENSE.to_sparse(), named / "v.pt")
    retriever = Retriever.from_pretrained("vectors", impacts="f32").index(named / "v.pt", progress=False)
    assert [(hit.doc_id, hit.score) for hit in retriever.search({"tea": 2.0, "milk": 1.0})] == [
        ("a", 3.0),
        ("é c", 0.25),
    ]


@pytest.mark.parametrize("as_tensor", [True, False])
def test_what_sentence_transformers_encodes_is_read(tmp_path, as_tensor):
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(tiny.bert(tmp_path / "bert")), device="cpu")
    texts = ["the moon", "green tea and the moon", "sea"]
    encoded = model.encode(texts, convert_to_tensor=as_tensor, show_progress_bar=False)
    terms = model.tokenizer.convert_ids_to_tokens(range(model.get_embedding_dimension()))
    torch.save({"embeddings": encoded, "ids": texts, "terms": terms}, tmp_path / "v.pt")
    dense = model.encode(texts, convert_to_sparse_tensor=False, convert_to_tensor=True, show_progress_bar=False)
    expected = {
        text: {term: weight for term, weight in zip(terms, row.tolist(), strict=True) if weight}
        for text, row in zip(texts, dense, strict=True)
    }
    assert vectors_of(tmp_path / "v.pt") == expected
    assert all(expected.values())


class Runs:
    def __reduce__(self):
        return print, ("it ran",)


def pickled(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def packed(tensor):
    buffer, out = io.BytesIO(), io.BytesIO()
    torch.save(tensor, buffer)
    with zipfile.ZipFile(buffer) as given, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as written:
        for info in given.infolist():
            written.writestr(info.filename, given.read(info.filename))
    return out.getvalue()


def view_of_one(rows, terms):
    """A tensor that says it has many entries and stores one."""
    indices, values = torch.zeros(2, 1, dtype=torch.int64), torch.ones(1)
    return torch.sparse_coo_tensor(indices.expand(2, rows), values.expand(rows), (3, terms), check_invariants=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no archive of torch.save"),
        (b"\x80\x02]q\x00.", "it is no archive of torch.save"),
        (pickled(DENSE.to_sparse())[:-200], "it is no archive of torch.save"),
        (pickled(Runs()), "torch cannot load it"),
        (pickled(DENSE), r"a tensor of the layout torch.strided, of shape \(3, 4\)"),
        (pickled("text"), "it is str 'text'"),
        (pickled([]), r"it is list \[\]"),
        (pickled([DENSE.to_sparse()]), "its rows are not all of one length and one dimension"),
        (pickled([torch.ones(3).to_sparse(), torch.ones(4).to_sparse()]), "its rows are not all of one length"),
        (pickled({"ids": IDS}), r"it has no 'embeddings' among \['ids'\]"),
        (pickled({"embeddings": DENSE.to_sparse(), "ids": "abc"}), "its ids are str 'abc', no list of strings"),
        (pickled({"embeddings": DENSE.to_sparse(), "ids": [1, 2, 3]}), "its ids are list .* no list of strings"),
        (pickled({"embeddings": DENSE.to_sparse(), "ids": ["a", "a", "b"]}), "has the id 'a' of one before it"),
        (pickled({"embeddings": DENSE.to_sparse(), "ids": ["a", "b"]}), "has 3 rows and 2 ids"),
        (pickled({"embeddings": DENSE.to_sparse(), "terms": ["a", "b", "c"]}), "3"),
        (pickled((-DENSE).to_sparse()), "-1.5"),
        (pickled((DENSE * float("nan")).to_sparse()), "nan"),
        (pickled(torch.ones(3, 2, 2).to_sparse()), "not of a matrix"),
        (pickled(view_of_one(1 << 20, 4)), "more than its file holds"),
        (packed(torch.zeros(1 << 16)), "it unpacks to"),
    ],
)  # fmt: skip
def test_what_is_no_such_tensor_is_told(named, capsys, content, message):
    (named / "v.pt").write_bytes(content)
    with pytest.raises(CorpusError, match=message) as told:
        read_vectors(named / "v.pt").find(["a"])
    assert str(named / "v.pt") in str(told.value)
    assert capsys.readouterr().out == ""  # nothing ran


@pytest.mark.parametrize("row", [-1, 3, 1 << 40])
def test_entries_outside_of_the_rows_are_told(named, row):
    coo = DENSE.to_sparse()
    arrays = {"indices": coo.indices().clone(), "values": coo.values(), "size": torch.tensor(coo.shape)}
    arrays["indices"][0, 1] = row
    save_file(arrays, named / "v.safetensors")
    with pytest.raises(CorpusError, match="it has entries outside of its 3 rows"):
        read_vectors(named / "v.safetensors")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"values": torch.ones(1)}, "it has no 'indices'"),
        ({"crow_indices": torch.tensor([0, 1])}, "it has no 'col_indices'"),
        ({"crow_indices": torch.tensor([0, 9, 9, 9]), "col_indices": torch.tensor([0]), "values": torch.ones(1)}, "indptr"),
        ({"indices": torch.zeros(2, 1, dtype=torch.int64), "values": torch.ones(1, 1), "size": torch.tensor([3, 4])}, r"values have the shape \(1, 1\)"),
        ({"indices": torch.zeros(2, 1, dtype=torch.int64), "values": torch.ones(1), "size": torch.tensor([1 << 40, 4])}, "almost all of them empty"),
        ({"indices": torch.zeros(2, 1, dtype=torch.int64), "values": torch.ones(1), "size": torch.tensor([-1, 4])}, "outside of its -1 rows"),
        ({"indices": torch.zeros(2, 1), "values": torch.ones(1), "size": torch.tensor([3, 4])}, "not of a matrix"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_matrix_are_told(named, arrays, message):
    save_file(arrays, named / "v.safetensors")
    with pytest.raises(CorpusError, match=message):
        read_vectors(named / "v.safetensors")


def test_a_file_that_is_no_safetensors_is_told(named):
    (named / "v.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(CorpusError, match="it is no whole safetensors file"):
        read_vectors(named / "v.safetensors")


@pytest.mark.parametrize("missing", ["ids", "terms"])
def test_names_that_are_nowhere_are_told(named, missing):
    torch.save(DENSE.to_sparse(), named / "v.pt")
    (named / f"{missing}.txt").unlink()
    with pytest.raises(CorpusError, match=f"has no array '{missing}', and there is no {missing}.txt beside it"):
        read_vectors(named / "v.pt")
