"""The benchmark of score layers on a tiny decoder."""

import json
import sys

import score_layers
from decoders_for_tests import save_decoder
from transformers import PreTrainedTokenizerFast

TEXTS = ["the moon pulls the sea", "flour water salt", "yeast makes bread", "the tide follows", "salt of the sea"]


def test_every_layer_is_measured_by_both_signals(tmp_path, monkeypatch):
    model, data, out = save_decoder(tmp_path / "model"), tmp_path / "data", tmp_path / "out.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer.save_pretrained(model)
    (data / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(TEXTS)]
    (data / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in corpus))
    queries = [{"_id": "q1", "text": "the sea"}, {"_id": "q2", "text": "salt bread"}]
    (data / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    (data / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td0\t1\nq2\td2\t1\n")
    given = ["--data", data, "--model", model, "--lists", 2, "--documents", 3, "--document-tokens", 200, "--json", out]
    monkeypatch.setattr(sys, "argv", ["score_layers.py", *map(str, given)])
    score_layers.main()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["layer"] for line in lines] == [0, 1]
    assert all(
        0.5 <= line[name] <= 1 for line in lines for name in ("query", "end", "chance")
    )  # 3 documents, 1 relevant
    assert (lines[0]["lists"], lines[0]["documents"]) == (2, 3)
