import re
from collections import defaultdict

import pytest

from eval.reproduction.published import FILE, ReproductionError, read_published

MEANS = """
BM25 flat                              | beir-13 .4370 .6164 | beir-14 .4274 .6138 | beir-18 .4244 .5863
BM25 multifield                        | beir-13 .4477 .6066 | beir-14 .4371 .6065 | beir-18 .4288 .5762
BM25 flat, word pieces                 | beir-13 .4202 .5946 | beir-14 .4113 .5919 | beir-18 .4036 .5605
uniCOIL without expansion              | beir-13 .4517 .6124 | beir-14 .4409 .6093 | beir-18 .4279 .5693
SPLADE++ ED                            | beir-13 .5050 .6586 | beir-14 .4928 .6579 | beir-18 .4767 .6175
SPLADE-v3, cached queries              | beir-13 .5183 .6733 | beir-14 .5058 .6722 | beir-18 .4874 .6322
SPLADE-v3, ONNX                        | beir-13 .5181 .6731 | beir-14 .5056 .6720 | beir-18 .4873 .6321
BGE-base-en-v1.5, flat                 | beir-13 .5501 .7006 | beir-14 .5410 .7050 | beir-18 .5093 .6479
Contriever, MS MARCO                   | beir-13 .4734 .6579 | beir-14 .4643 .6582 | beir-18 .4479 .6127
BM25 flat + BGE-base, RRF              | beir-13 .5398 .7145 | beir-18 .5153 .6804
BM25 flat + BGE-base, min-max          | beir-13 .5556 .7125 | beir-18 .5304 .6784
BM25 flat + BGE-base, raw scores added | beir-13 .4525 .6384 | beir-18 .4400 .6098
BM25 flat, arm of the fusions          | beir-13 .4370 .6164 | beir-18 .4244 .5863
BGE-base, arm of the fusions           | beir-13 .5489 .6991 | beir-18 .5083 .6468
OpenSearch doc-v3-gte (MTEB)           | beir-13 .5463
OpenSearch doc-v3-distill (MTEB)       | beir-13 .5165
OpenSearch doc-v2-distill (MTEB)       | beir-13 .5043
OpenSearch doc-v2-mini (MTEB)          | beir-13 .4966
bge-base-en-v1.5 (MTEB)                | beir-13 .5503
bge-small-en-v1.5 (MTEB)               | beir-13 .5352
e5-mistral-7b-instruct (MTEB)          | beir-13 .5900
e5-base-v2 (MTEB)                      | beir-13 .5186
e5-small-v2 (MTEB)                     | beir-13 .5054
snowflake-arctic-embed-xs (MTEB)       | beir-13 .5174
granite-30m-english (MTEB)             | beir-13 .5084
all-MiniLM-L6-v2 (MTEB)                | beir-13 .4241
bm25s (baseline of MTEB)               | beir-13 .4183
Contriever, first stage of BlockRank         | blockrank-11 .459
Contriever, reranked by a cross-encoder      | blockrank-11 .507
Contriever, reranked by RankVicuna           | blockrank-11 .507
Contriever, reranked by RankZephyr           | blockrank-11 .537
Contriever, reranked by FIRST                | blockrank-11 .543
Contriever, reranked by BlockRank (paper)    | blockrank-11 .548
Contriever, reranked by BlockRank (README)   | blockrank-11 .549
Contriever, reranked by first_mistral        | blockrank-11 .556
"""  # as the sources, or we before this file was written, computed them


@pytest.fixture(scope="module")
def published():
    return read_published()


def figures_of(published):
    """(system, measure) -> data set -> value"""
    figures = defaultdict(dict)
    for anchor in published.anchors:
        figures[anchor.system, anchor.measure][anchor.dataset] = anchor.value
    return figures


@pytest.mark.parametrize("line", MEANS.strip().splitlines(), ids=lambda line: line.split("|")[0].strip())
def test_the_means_are_the_published_ones(line, published):
    system, *groups = (part.strip() for part in line.split("|"))
    figures, means = figures_of(published), {mean.name: mean for mean in published.means}
    for group in groups:
        name, *values = group.split()
        for measure, value in zip(("nDCG@10", "R@100"), values, strict=False):
            computed = means[name].of(figures[system, measure])
            # figures and means are both rounded, to half of the last digit that the source gives
            last = 10.0 ** -(len(value) - 1)
            source = next(anchor.source for anchor in published.anchors if anchor.system == system)
            assert abs(computed - float(value)) <= last / 2 + 10.0**-source.digits / 2 + 1e-12, (name, measure)


def test_every_system_of_the_means_is_there_and_every_other_one_has_a_figure(published):
    listed = {line.split("|")[0].strip() for line in MEANS.strip().splitlines()}
    assert listed < {anchor.system for anchor in published.anchors}
    assert {"SPLADE-v3-doc", "OpenSearch doc-v1", "LACONIC-1B"} < {
        anchor.system for anchor in published.anchors
    } - listed


def test_means_have_the_number_of_data_sets_in_their_name(published):
    assert {mean.name: len(set(mean.datasets)) for mean in published.means} == {
        "beir-13": 13, "beir-14": 14, "beir-18": 18, "blockrank-11": 11,
    }  # fmt: skip


def test_the_arm_of_the_published_fusions_is_the_same_run_of_bm25(published):
    figures = figures_of(published)
    for measure in ("nDCG@10", "R@100"):
        assert figures["BM25 flat, arm of the fusions", measure] == figures["BM25 flat", measure]


def test_ms_marco_is_measured_on_dev_and_each_source_says_its_conditions(published):
    assert {anchor.split for anchor in published.anchors if anchor.dataset == "msmarco"} == {"dev"}
    assert {anchor.split for anchor in published.anchors if anchor.dataset != "msmarco"} == {"test"}
    assert all(source.under and source.where and source.project for source in published.sources)


def changed(tmp_path, pattern, replacement):
    path = tmp_path / "published.toml"
    text, count = re.subn(pattern, replacement, FILE.read_text(), count=1)
    assert count == 1
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"0\.5947", "59.47", r"nDCG@10 of anserini, BM25 flat, trec-covid is 59\.47; give it as a number from 0 to 1"),
        (r"0\.5947", "nan", "is nan; give it"),
        (r"0\.5947", "true", "is True; give it"),
        (r"\[0\.5947, ", "[", "trec-covid has 1 values for the measures nDCG@10, R@100; give one for each"),
        ('"BGE-base, arm of', '"BM25 flat, arm of', "not TOML"),
        ('"BM25 flat, arm of the fusions"', '"BM25 flat"', "BM25 flat on trec-covid is given by anserini and by pyserini-fusion"),
        ('"LACONIC-1B"', '"BM25 flat"', "BM25 flat on scifact is given by anserini and by laconic"),
        ('"OpenSearch doc-v1"', '"OpenSearch doc-v3-gte (MTEB)"', "on beir-13 is stored beside all figures"),
        (r"under = ", "beneath = ", "lacks 'under'"),
        (r"\[splits\]", "[splits", "not TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_told_with_its_value(tmp_path, pattern, replacement, message):
    with pytest.raises(ReproductionError, match=message):
        read_published(changed(tmp_path, pattern, replacement))
