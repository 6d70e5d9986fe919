"""Measures of a run, by ir_measures and the trec_eval code beneath it; nothing is computed here.

trec_eval's conventions: every judged query counts and a query without results scores 0; ties in score are broken by
document id, descending, for all measures but RR with a cutoff, which breaks them ascending; nDCG has linear gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from index.errors import WinnowError

DEFAULT_MEASURES = ("nDCG@10", "R@100", "MRR@10")
Run = Mapping[str, Mapping[str, float]]  # query id -> document id -> score


def measure_run(
    qrels: Mapping[str, Mapping[str, int]], run: Run, measures: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, float]:
    """The mean of each measure over all judged queries, under the name it was asked by."""
    import ir_measures

    parsed = parse_measures(measures)
    means = ir_measures.calc_aggregate(list(parsed.values()), *as_dicts(qrels, run))
    return {name: means[measure] for name, measure in parsed.items()}


def measure_queries(qrels: Mapping[str, Mapping[str, int]], run: Run, measure: str) -> dict[str, float]:
    """One measure of every judged query; 0 for one without results."""
    import ir_measures

    found = ir_measures.iter_calc(list(parse_measures([measure]).values()), *as_dicts(qrels, run))
    return {**dict.fromkeys(qrels, 0.0), **{one.query_id: one.value for one in found}}


def as_dicts(
    qrels: Mapping[str, Mapping[str, int]], run: Run
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """As the code beneath wants them."""
    return {q: dict(judged) for q, judged in qrels.items()}, {q: dict(docs) for q, docs in run.items()}


def parse_measures(names: Sequence[str]) -> dict[str, object]:
    """name -> ir_measures object. Raises WinnowError for a name that ir_measures does not know or cannot compute."""
    try:
        import ir_measures
    except ImportError as error:
        raise WinnowError("measures need the package ir-measures; run `pip install 'winnow-ir[eval]'`.") from error
    parsed = {}
    for name in names:
        try:
            parsed[name] = ir_measures.parse_measure(name)
            if parsed[name].params.get("cutoff", 1) < 1:  # the code beneath would end the process
                raise ValueError("cutoff below 1")
            ir_measures.calc_aggregate([parsed[name]], {"q": {"d": 1}}, {"q": {"d": 1.0}})
        except Exception as error:  # ir_measures passes on whatever its parser and providers raise
            raise WinnowError(
                f"{name!r} is not a measure that can be computed here; give names such as nDCG@10, R@100, MRR@10, AP."
            ) from error
    return parsed
