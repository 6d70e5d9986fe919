"""Weights in 8 bits: what is stored, what is read back, what is refused."""

import hashlib
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.torch import load, load_file, save_file

from index.errors import ModelError
from retrieval.encoders.eight_bit import FILE, packed, unpacked

FEW = [float(np.float32(weight)) for weight in (0, 1, -1, 0.5, -127, 2.5, 1e-45, -1e-40, 3e30)]
WEIGHTS = st.one_of(st.sampled_from(FEW), st.floats(-(2.0**100), 2.0**100, width=32))


@pytest.fixture
def written(tmp_path):
    def write(tensors):
        (tmp_path / FILE).write_bytes(packed(tensors))
        return tmp_path / FILE

    return write


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=WEIGHTS))
def test_no_weight_is_off_by_more_than_half_a_step_of_its_row(matrix):
    stored = load(packed({"w": torch.from_numpy(matrix)}))
    assert set(stored) == {"w.int8", "w.int8.scale"}
    for row, steps, scale in zip(
        matrix.tolist(), stored["w.int8"].tolist(), stored["w.int8.scale"].tolist(), strict=True
    ):
        for weight, step in zip(row, steps, strict=True):
            assert -127 <= step <= 127
            assert abs(Fraction(weight) - step * Fraction(scale)) <= Fraction(scale) / 2
        largest = max(map(abs, row))
        assert (scale == 0) == (largest == 0)
        if largest > 1e-30:
            assert scale == np.float32(largest) / np.float32(127)
            assert max(map(abs, steps)) == 127


def test_what_is_read_back_is_steps_times_scale(written):
    matrix = torch.tensor([[1.27, -0.633, 0.004, 0.0], [0.0, 0.0, 0.0, 0.0], [-254.0, 3.0, 1.0, 0.9]])
    found = unpacked(written({"w": matrix, "b": torch.tensor([0.1, -7.0])}))
    assert found["w"].dtype == found["b"].dtype == torch.float32
    steps = [[127, -63, 0, 0], [0, 0, 0, 0], [-127, 2, 0, 0]]  # of 0.01; 3 / 2 is rounded to even, as 1 / 2
    np.testing.assert_allclose(found["w"], np.array(steps) * np.array([[0.01], [0], [2]]), rtol=1e-6)
    assert found["b"].tolist() == [np.float32(0.1), -7.0]


def test_everything_but_matrices_stays_and_halves_become_float32(written):
    tensors = {
        "bias": torch.tensor([0.1, 1e-20]).to(torch.bfloat16),
        "kernel": torch.arange(8, dtype=torch.float16).view(2, 2, 2),
        "positions": torch.arange(6).view(2, 3),
        "mask": torch.ones(2, 2, dtype=torch.bool),
        "number": torch.tensor(0.3),
        "none": torch.empty(3, 0),
        "half": torch.tensor([[127.0, -3.0]], dtype=torch.float16),
        "norm.scale": torch.tensor([2.0]),
        "turned": torch.tensor([[127.0, 1.0], [2.0, 127.0]]).T,
    }
    found = unpacked(written(tensors))
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].tolist() == tensor.tolist(), name
        assert found[name].dtype == (torch.float32 if tensor.is_floating_point() else tensor.dtype)


def test_a_matrix_takes_a_byte_a_weight(written):
    assert written({"w": torch.randn(300, 200)}).stat().st_size < 300 * 200 + 300 * 4 + 500


def test_the_same_weights_make_the_same_file():
    numbers = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    files = [packed({name: numbers * ord(name) for name in order}) for order in ("abc", "cab")]
    assert files[0] == files[1]
    header = json.loads(files[0][8 : 8 + int.from_bytes(files[0][:8], "little")])
    data = files[0][8 + int.from_bytes(files[0][:8], "little") :]
    assert header["__metadata__"] == {
        "format": "winnow-8bit",
        "version": "1",
        "sha256": hashlib.sha256(data).hexdigest(),
    }


@pytest.mark.parametrize(("tensors", "told"), [
    ({"w": torch.tensor([[1.0, float("nan")]])}, r"w has the weight nan; only finite numbers have 8 bits"),
    ({"b": torch.tensor([1.0, float("inf")])}, r"b has the weight inf"),
    ({"w.int8": torch.ones(2, 2)}, r"a tensor 'w.int8', which weights in 8 bits need"),
    ({"w.int8.scale": torch.ones(2)}, r"a tensor 'w.int8.scale', which"),
])  # fmt: skip
def test_weights_that_have_no_8_bits_are_told(tensors, told):
    with pytest.raises(ModelError, match=told):
        packed(tensors)


@pytest.mark.parametrize("place", range(0, 1200, 13))
def test_any_byte_that_changed_is_noticed(written, place):
    path = written({"w": torch.randn(30, 30), "b": torch.randn(8)})
    data = bytearray(path.read_bytes())
    assert len(data) > 1200
    data[place] ^= 4
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model-8bit.safetensors .*\.$"):
        unpacked(path)


@pytest.mark.parametrize("kept", [0, 5, 100, 1300])
def test_a_file_that_ends_too_early_is_told(written, kept):
    path = written({"w": torch.randn(40, 40)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cannot be read .*get the checkpoint again"):
        unpacked(path)


def told(path, tensors, **metadata):
    """What is said of a file of others, whose metadata say that it is one of ours."""
    save_file(tensors, path, {"format": "winnow-8bit", "version": "1"})
    data = path.read_bytes()
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    save_file(tensors, path, {"format": "winnow-8bit", "version": "1", "sha256": digest, **metadata})
    with pytest.raises(ModelError) as error:
        unpacked(path)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path), "FILE")


def test_foreign_and_newer_files_are_told(tmp_path):
    path, steps, scale = tmp_path / FILE, torch.ones(2, 2, dtype=torch.int8), torch.ones(2)
    save_file({"w": torch.ones(2, 2)}, path)
    with pytest.raises(ModelError, match=r"is of the format None, it must be 'winnow-8bit'"):
        unpacked(path)
    assert "is of the format 'pt', it must be" in told(path, {"w": scale}, format="pt")
    assert "is of version '2', this release reads 1; update winnow-ir" in told(path, {"w": scale}, version="2")
    assert "they were written with ffff" in told(path, {"w": scale}, sha256="ffff")
    assert told(path, {"w.int8": steps}).startswith("FILE has no scale for each of the 2 rows of w;")
    assert "no scale for each of the 2" in told(path, {"w.int8": steps, "w.int8.scale": torch.ones(3)})
    assert "no scale for each of the 2" in told(path, {"w.int8": steps, "w.int8.scale": torch.ones(2).double()})
    assert "has w.int8 as torch.float32 (2, 2)" in told(path, {"w.int8": steps.float(), "w.int8.scale": scale})
    assert "has w.int8 as torch.int8 (4,)" in told(path, {"w.int8": steps.view(4), "w.int8.scale": torch.ones(4)})
    assert "has w.int8 as" in told(path, {"w.int8": steps, "w.int8.scale": scale, "w": torch.ones(2, 2)})
    save_file({"w": scale}, path, {"format": "winnow-8bit", "version": "1"})
    with pytest.raises(ModelError, match="they were written with none"):
        unpacked(path)
    assert load_file(path)["w"].tolist() == [1, 1]
