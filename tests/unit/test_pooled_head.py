import pytest
import torch

from kernels.cpu.pooled_head import pooled_head, pooled_head_reference


@pytest.mark.parametrize("lengths", [[1], [3, 1, 7], [20, 20]])
@pytest.mark.parametrize(("vocabulary", "tile"), [(1, 8), (8, 8), (9, 8), (50, 8), (50, 1024)])
def test_tiles_equal_the_whole_product(lengths, vocabulary, tile):
    torch.manual_seed(0)
    hidden, embeddings = torch.randn(sum(lengths), 6), torch.randn(vocabulary, 6)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    pooled = pooled_head(hidden, starts, embeddings, tile)
    torch.testing.assert_close(pooled, pooled_head_reference(hidden, starts, embeddings), rtol=1e-5, atol=1e-6)


def test_the_table_of_tokens_by_vocabulary_is_never_made(monkeypatch):
    hidden, embeddings, tile = torch.randn(40, 6), torch.randn(3_000, 6), 128
    largest = 0
    product = torch.Tensor.__matmul__

    def watched(left, right):
        nonlocal largest
        result = product(left, right)
        largest = max(largest, result.numel())
        return result

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    pooled_head(hidden, [0, 10, 40], embeddings, tile)
    assert largest == 40 * tile
