"""A tiny decoder is trained to rank by its attention: gradients, saving, LoRA, learning, resuming."""

import json
import sys
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
import transformers
from decoders_for_tests import save_decoder

from index.errors import ModelError, WinnowError
from kernels.document_mass import log_document_mass
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import read_model
from retrieval.rerankers.block_pass import Prompt
from retrieval.rerankers.block_rank import BlockRankReranker, MassWatch
from retrieval.rerankers.list_model import transformers_tokenizer
from retrieval.rerankers.prompt import PromptReader
from retrieval.rerankers.settings import BlockRankSettings
from retrieval.training.block_rank import BlockRankOptions, BlockRankTask, ndcg
from retrieval.training.lists import Candidates, RankingList
from retrieval.training.options import TrainingOptions
from retrieval.training.ranking_model import RankingModel
from retrieval.training.trainer import train

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
SETTINGS = BlockRankSettings(
    score_layer=1, document_tokens=60, instruction="Query: {query}", last="Query: {query}\nAnswer:"
)
WORDS = ("moon", "tide", "bread", "salt", "water", "yeast", "flour", "sea")
MODEL = {"num_hidden_layers": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = save_decoder(tmp_path_factory.mktemp("tiny"), "llama", **MODEL)
    written = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, "bos_token": "<|begin_of_text|>"}
    (found / "tokenizer_config.json").write_text(json.dumps({**written, "eos_token": "<|im_end|>"}))
    return found


def model_of(folder, mode="attention", settings=SETTINGS, **options):
    torch.manual_seed(0)
    return RankingModel.load(ModelFiles(str(folder)), settings, mode, **options)


def reader_of(folder, settings=SETTINGS):
    return PromptReader(transformers_tokenizer(ModelFiles(str(folder))), settings)


def task_of(folder, lists, mode="attention", held_out=(), reference=None, lora_rank=0, **options):
    options = BlockRankOptions(mode=mode, **{"documents": 4, **options})
    tokenizer = transformers_tokenizer(ModelFiles(str(folder)))
    model = model_of(folder, mode, lora_rank=lora_rank)
    return BlockRankTask(
        model,
        reader_of(folder),
        lists,
        held_out,
        options,
        reference=reference,
        write_tokenizer=tokenizer.save_pretrained,
    )


def words_to_find(number, chance):
    """Lists whose one relevant document says the query's word."""
    found = []
    for _ in range(number):
        word, *others = chance.permutation(WORDS)[:5]
        found.append(Candidates(str(word), (f"{word} {word}",), (1,), tuple(f"{one} {one}" for one in others)))
    return found


LISTS = words_to_find(12, np.random.default_rng(3))


def read_one(task, answered):
    return task.read(RankingList("moon", ("bread tide", "the moon"), (0, 1)), answered=answered)


def dense(folder, read, last):
    """What the library itself makes of the prompt under a mask of tokens by tokens: (queries and keys of the score layer, logits)."""
    blocks = [read.prompt.instruction, *read.prompt.documents, last]
    starts = [0, *accumulate(len(ids) for ids in blocks)]
    sees = torch.zeros(starts[-1], starts[-1], dtype=torch.bool)
    for number, (first, after) in enumerate(pairwise(starts)):
        sees[first:after, : starts[1]] = True
        sees[first:after, first:after] = True
        if number == len(blocks) - 1:
            sees[first:after] = True
    sees &= torch.ones_like(sees).tril()
    positions = np.concatenate(
        [np.arange(len(ids)) + (starts[1] if 0 < n < len(blocks) - 1 else 0) for n, ids in enumerate(blocks)]
    )
    positions[starts[-2] :] += read.prompt.last_position
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    seen = {}
    layer = model.model.layers[SETTINGS.score_layer].self_attn

    def keep(module, args, kwargs):
        seen["hidden"], seen["turn"] = kwargs["hidden_states"], kwargs["position_embeddings"]

    layer.register_forward_pre_hook(keep, with_kwargs=True)
    mask = torch.zeros(sees.shape).masked_fill(~sees, -1e30)[None, None]
    ids = torch.from_numpy(np.concatenate(blocks))[None]
    logits = model(input_ids=ids, position_ids=torch.from_numpy(positions)[None], attention_mask=mask).logits[0]
    shape = (1, starts[-1], -1, layer.head_dim)
    q, k = (side(seen["hidden"]).view(shape).transpose(1, 2) for side in (layer.q_proj, layer.k_proj))
    q, k = transformers.models.llama.modeling_llama.apply_rotary_pos_emb(q, k, *seen["turn"])
    return q[0], k[0].repeat_interleave(q.shape[1] // k.shape[1], 0), logits, starts


def published_masses(q, k, rows, starts):
    """Softmax over the tokens of documents, mean over heads and rows, sum over a document's tokens."""
    scores = q[:, rows] @ k[:, starts[1] : starts[-2]].transpose(1, 2) * q.shape[-1] ** -0.5
    share = scores.softmax(-1).mean((0, 1))
    ends = [start - starts[1] for start in starts[1:-1]]
    return torch.stack([share[a:b].sum() for a, b in pairwise(ends)])


@pytest.mark.parametrize("mode", ["attention", "full"])
def test_masses_and_logits_are_the_librarys_under_a_dense_mask(folder, mode):
    task = task_of(folder, LISTS, mode)
    read = read_one(task, answered=mode == "full")
    log_mass, logits = task.ranking.masses(read.prompt, read.signal, read.answer)
    q, k, expected, starts = dense(folder, read, read.prompt.last)
    torch.testing.assert_close(
        log_mass.exp(), published_masses(q, k, starts[-2] + read.signal, starts), atol=1e-6, rtol=1e-5
    )
    if mode == "attention":
        assert logits is None
        assert len(task.ranking.blocks.layers) == SETTINGS.score_layer + 1
        assert read.signal.tolist() == [len(read.prompt.last) - 2, len(read.prompt.last) - 1]
    else:
        first = starts[-2] + read.answer.start
        torch.testing.assert_close(logits, expected[first - 1 : -1], atol=1e-5, rtol=1e-4)
        tokenizer = transformers_tokenizer(ModelFiles(str(folder)))
        assert tokenizer.decode(read.prompt.last[read.answer]) == "[1]<|im_end|>"
        assert tokenizer.decode(read.prompt.last[read.signal]).endswith("[")


def test_gradients_reach_queries_and_keys_of_the_score_layer_and_all_below_and_nothing_above(folder):
    task = task_of(folder, LISTS)
    task.losses(0, 0).total.backward()
    names = {name for name, p in task.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    of_score_layer = {name.rsplit(".", 2)[1] for name in names if name.startswith("layers.1.")}
    assert of_score_layer == {"q_proj", "k_proj", "input_layernorm"}
    assert {name.rsplit(".", 2)[1] for name in names if name.startswith("layers.0.")} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "input_layernorm", "post_attention_layernorm",
    }  # fmt: skip
    assert "embed_tokens.weight" in names
    assert "norm.weight" not in names


def test_full_mode_adds_the_next_token_loss_and_weighs_the_other(folder):
    task = task_of(folder, LISTS, "full", weight=0.25)
    losses = task.losses(0, 0)
    assert losses.total.item() == pytest.approx(
        losses.parts["next_token"] + 0.25 * losses.parts["contrastive"], rel=1e-6
    )
    losses.total.backward()
    assert all(p.grad is not None for name, p in task.model.named_parameters())


def test_the_querys_own_tokens_may_be_the_signal(folder):
    settings = BlockRankSettings(score_layer=1, document_tokens=60, signal_tokens="query").query_free()
    reader = reader_of(folder, settings)
    task = BlockRankTask(model_of(folder, settings=settings), reader, LISTS, (), BlockRankOptions(documents=4))
    read = read_one(task, answered=False)
    tokenizer = transformers_tokenizer(ModelFiles(str(folder)))
    assert tokenizer.decode(read.prompt.last[read.signal]).strip() == "moon"
    task.losses(0, 0).total.backward()
    with pytest.raises(WinnowError, match=r"in full mode the model is to answer with ids"):
        BlockRankTask(model_of(folder, settings=settings), reader, LISTS, (), BlockRankOptions(mode="full"))


@pytest.mark.parametrize("mode", ["attention", "full"])
def test_gradient_checkpointing_changes_no_gradient(folder, mode):
    plain, saving = (task_of(folder, LISTS, mode) for _ in range(2))
    saving.ranking.checkpoint_gradients()
    computed = []
    saving.ranking.blocks.layers[0].layer.mlp.register_forward_pre_hook(lambda *_: computed.append(1))
    at_the_end = []
    saving.ranking.blocks.layers[1].layer.self_attn.q_proj.register_forward_pre_hook(lambda *_: at_the_end.append(1))
    for task in (plain, saving):
        task.model.train()
        task.losses(0, 0).total.backward()
    assert len(computed) == 2  # once more for the gradients
    assert len(at_the_end) == (1 if mode == "attention" else 2)  # a layer that is left halfway is not computed again
    for (name, one), (_, other) in zip(plain.model.named_parameters(), saving.model.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.parametrize("mode", ["attention", "full"])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_saved_model_gives_the_masses_of_the_trained_one(folder, tmp_path, mode, lora_rank):
    task = task_of(folder, LISTS, mode, lora_rank=lora_rank)
    before = task.ranking.masses(*read_one(task, answered=False)[:2])[0]
    train(
        task, TrainingOptions(steps=3, learning_rate=0.05, warmup=0, evaluate_every=0), tmp_path / "run", progress=False
    )
    read = read_one(task, answered=False)
    expected = task.ranking.masses(*read[:2])[0]
    assert (expected - before).abs().max() > 1e-3
    saved = tmp_path / "run" / "model"
    assert BlockRankSettings.open(saved) == SETTINGS
    again = model_of(saved, mode)
    torch.testing.assert_close(again.masses(*read[:2])[0], expected, atol=1e-6, rtol=1e-5)
    assert len(json.loads((saved / "config.json").read_text())["architectures"]) == 1
    assert reader_of(saved).fingerprint == task.reader.fingerprint
    weights = read_model(ModelFiles(str(saved)), "float32", with_head=mode == "full").state_dict()
    assert not any("lora" in name or ".layer." in name for name in weights)


def test_the_reranker_ranks_by_the_masses_that_are_trained(folder, tmp_path):
    task = task_of(folder, LISTS)
    (tmp_path / "saved").mkdir()
    task.save(tmp_path / "saved")
    given = ["bread tide", "the moon", "salt"]
    read = task.read(RankingList("moon", tuple(given), (0, 1, 0)), answered=False)
    trained = task.ranking.masses(read.prompt, read.signal)[0].exp()
    ranked = BlockRankReranker.from_pretrained(tmp_path / "saved", device="cpu").rank("moon", given)
    found = {one.index: one.mass for one in ranked}
    assert [found[i] for i in range(3)] == pytest.approx(trained.tolist(), rel=1e-5)


def test_tied_embeddings_are_saved_once_and_stay_tied(tmp_path, folder):
    tied = save_decoder(tmp_path / "tied", "llama", tie_word_embeddings=True, **MODEL)
    (tied / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    model = model_of(tied, "full")
    (tmp_path / "saved").mkdir()
    with torch.no_grad():
        model.module.get_input_embeddings().weight += 1
    model.save(tmp_path / "saved")
    again = read_model(ModelFiles(str(tmp_path / "saved")), "float32", with_head=True)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, model.module.get_input_embeddings().weight)


def test_lora_trains_adapters_alone(folder, tmp_path):
    task = task_of(folder, LISTS, lora_rank=2)
    trained = {name for name, p in task.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    before = {name: p.clone() for name, p in task.model.named_parameters()}
    train(
        task, TrainingOptions(steps=2, learning_rate=0.05, warmup=0, evaluate_every=0), tmp_path / "run", progress=False
    )
    changed = {name for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= trained


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_frozen_layers_and_what_is_below_them_are_not_trained(folder, lora_rank):
    torch.manual_seed(0)
    settings = BlockRankSettings(score_layer=2, document_tokens=60)
    model = RankingModel.load(ModelFiles(str(folder)), settings, "attention", lora_rank=lora_rank, frozen_layers=1)
    free = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in free if name.startswith("layers.")} == {"1", "2"}
    assert not any("embed" in name for name in free)
    with pytest.raises(WinnowError, match="3 of 3 layers are to be frozen"):
        RankingModel.load(ModelFiles(str(folder)), settings, "attention", frozen_layers=3)


@pytest.mark.parametrize("loss", ["contrastive", "irpo"])
def test_training_finds_the_document_that_says_the_word_of_the_query(folder, tmp_path, loss):
    chance = np.random.default_rng(1)
    held_out = words_to_find(60, chance)
    task = task_of(folder, words_to_find(200, chance), held_out=held_out, loss=loss)
    options = TrainingOptions(steps=100, learning_rate=1e-2, warmup=10, evaluate_every=50, save_every=100)
    trained = train(task, options, tmp_path / "run", progress=False)
    assert trained.first < 0.75  # near what chance gives: 0.64 of 4 documents
    assert trained.best > trained.first + 0.15
    assert trained.best_step > 0


def test_a_resumed_run_equals_one_that_was_not_interrupted(folder, tmp_path):
    options = TrainingOptions(steps=6, learning_rate=0.01, accumulation=2, evaluate_every=3, save_every=2)

    class Interrupted(BlockRankTask):
        def losses(self, number, epoch):
            Interrupted.left -= 1
            if Interrupted.left == 0:
                raise KeyboardInterrupt
            return super().losses(number, epoch)

    Interrupted.left = 10  # in the fifth step
    whole = task_of(folder, LISTS, held_out=LISTS[:3], lora_rank=2)
    ended = train(whole, options, tmp_path / "whole", progress=False)
    cut = task_of(folder, LISTS, held_out=LISTS[:3], lora_rank=2)
    cut.__class__ = Interrupted
    with pytest.raises(KeyboardInterrupt):
        train(cut, options, tmp_path / "cut", progress=False)
    again = task_of(folder, LISTS, held_out=LISTS[:3], lora_rank=2)
    resumed = train(again, options, tmp_path / "cut", resume=True, progress=False)
    for (name, one), (_, other) in zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    for name in ("model.safetensors", "config.json", "blockrank.json", "tokenizer.json"):
        assert (ended.model / name).read_bytes() == (resumed.model / name).read_bytes(), name


def test_irpo_begins_at_what_chance_gives_where_the_reference_is_the_model_itself(folder):
    reference = model_of(folder)
    task = task_of(folder, LISTS, loss="irpo", reference=reference)
    assert task.losses(0, 0).total.item() == pytest.approx(np.log(4), abs=1e-5)  # of 4 documents
    task.losses(0, 0).total.backward()
    assert all(p.grad is None for p in reference.module.parameters())


def test_a_run_is_told_from_one_with_other_lists_prompt_or_losses(folder):
    task = task_of(folder, LISTS, held_out=LISTS[:2])
    same = task_of(folder, LISTS, held_out=LISTS[:2]).describe()
    assert task.describe() == same
    fewer = task_of(folder, LISTS[:-1], held_out=LISTS[:2]).describe()
    assert {name for name in same if same[name] != fewer[name]} == {"lists"}
    changed = [LISTS[0]._replace(relevance=(2,)), *LISTS[1:]]
    assert task_of(folder, changed, held_out=LISTS[:2]).describe()["lists"] != same["lists"]
    moved = [LISTS[0]._replace(relevant=(), negatives=(*LISTS[0].relevant, *LISTS[0].negatives)), *LISTS[1:]]
    assert task_of(folder, moved, held_out=LISTS[:2]).describe()["lists"] != same["lists"]


def test_what_cannot_be_trained_is_told(folder, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"score_layer is 7, and .* has 3 layers; give one from 0 to 2"):
        model_of(folder, settings=BlockRankSettings(score_layer=7))
    with pytest.raises(WinnowError, match="rank of LoRA is -1"):
        model_of(folder, lora_rank=-1)
    for changes, message in (
        ({"loss": "hinge"}, "loss is 'hinge'; it must be contrastive or irpo"),
        ({"mode": "half"}, "mode is 'half'; it must be attention or full"),
        ({"documents": 1}, "documents is 1; a list needs 2 or more"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
    ):
        with pytest.raises(WinnowError, match=message):
            BlockRankOptions(**changes)
    with pytest.raises(WinnowError, match="0 training examples"):
        train(task_of(folder, []), TrainingOptions(), tmp_path / "a", progress=False)
    with pytest.raises(WinnowError, match="0 lists to evaluate on"):
        train(task_of(folder, LISTS), TrainingOptions(), tmp_path / "b", progress=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"LoRA needs peft; pip install 'winnow-ir\[train\]'"):
        model_of(folder, lora_rank=2)


def test_a_list_is_measured_with_linear_gain():
    assert ndcg([0, 2, 1], 10) == pytest.approx((2 / np.log2(3) + 1 / np.log2(4)) / (2 + 1 / np.log2(3)))
    assert ndcg([0, 0, 1], 2) == 0


def test_bfloat16_products_leave_masses_in_float32(folder):
    task = task_of(folder, LISTS, "full")
    with torch.autocast("cpu", torch.bfloat16):
        losses = task.losses(0, 0)
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    assert losses.total.item() == pytest.approx(task.losses(0, 0).total.item(), rel=0.05)


def test_masses_have_the_digits_of_float32_under_autocast():
    queries, keys, starts = torch.randn(3, 4, 8), torch.randn(20, 2, 8), torch.tensor([0, 5, 20])
    watch = MassWatch(starts, 0, np.array([1, 2]))
    with torch.autocast("cpu", torch.bfloat16):
        watch.see(0, queries, keys, None, 0.5)
    assert torch.equal(watch.log_mass, log_document_mass(queries[1:], keys, starts, 0.5))


def test_documents_that_are_cut_are_counted(folder, recwarn):
    task = task_of(folder, [Candidates("moon", ("moon " * 99,), (1,), ("a", "b"))], documents=3)
    assert task.losses(0, 0).parts["documents_cut"] == 1
    assert not [one for one in recwarn if "document_tokens" in str(one.message)]
    assert isinstance(task.read(RankingList("q", ("a", "b"), (0, 1)), answered=False).prompt, Prompt)
