import pytest
import torch

from kernels.cpu.linear import InferenceLinear, is_supported, linear
from kernels.cpu.pooled_head import Head, pooled_head, pooled_head_reference

needs_onednn = pytest.mark.skipif(not is_supported(torch.empty(1, 1)), reason="this PyTorch has no oneDNN")


def log1p_of_relu(logits):
    return logits.relu().log1p()


@pytest.mark.parametrize("summed", [None, log1p_of_relu])
@pytest.mark.parametrize("lengths", [[1], [3, 1, 7], [20, 20]])
@pytest.mark.parametrize(("vocabulary", "tile"), [(1, 8), (8, 8), (9, 8), (50, 8), (50, 1024)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_tiles_equal_the_whole_product(lengths, vocabulary, tile, has_bias, summed):
    torch.manual_seed(0)
    hidden, weight = torch.randn(sum(lengths), 6), torch.randn(vocabulary, 6)
    bias = torch.randn(vocabulary) if has_bias else None
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    with torch.inference_mode():
        pooled = pooled_head(hidden, starts, Head.of(weight, bias, tile), summed)
    expected = pooled_head_reference(
        hidden.double(), starts, weight.double(), bias if bias is None else bias.double(), summed
    )
    torch.testing.assert_close(pooled.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_table_of_tokens_by_vocabulary_is_never_made():
    sizes = []
    head = Head.of(torch.randn(3_000, 6), tile=128)
    watched = [lambda hidden, tile=tile: sizes.append(tile(hidden).numel()) or tile(hidden) for tile in head.tiles]
    with torch.inference_mode():
        pooled_head(torch.randn(40, 6), [0, 10, 40], head._replace(tiles=watched))
    assert max(sizes) == 40 * 128
    assert len(sizes) == 24


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype):
    torch.manual_seed(0)
    inputs, layer = torch.randn(300, 384).to(dtype), InferenceLinear(torch.randn(1_000, 384).to(dtype), None)
    with torch.inference_mode():
        together = layer(inputs)
        for count in (1, 2, 15, 16, 17, 100, 299):
            assert torch.equal(layer(inputs[:count].contiguous()), together[:count])


@needs_onednn
def test_a_layer_equals_pytorchs():
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(2, 30, 40), torch.randn(50, 40), torch.randn(50)
    with torch.inference_mode():
        found, gelu = InferenceLinear(weight, bias)(inputs), InferenceLinear(weight, bias, gelu=True)(inputs)
    expected = torch.nn.functional.linear(inputs, weight, bias)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gelu, torch.nn.functional.gelu(expected), rtol=1e-5, atol=1e-5)


def test_what_onednn_does_not_take_is_pytorchs_own_layer():
    weight, bias = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    layer, inputs = linear(weight, bias), torch.randn(3, 4, dtype=torch.float64)
    assert type(layer) is torch.nn.Linear
    torch.testing.assert_close(layer(inputs), inputs @ weight.T + bias)
