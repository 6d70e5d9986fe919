"""BlockRank (arXiv:2510.05396): a decoder learns to rerank a list by its attention in one pass."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from index.errors import WinnowError

if TYPE_CHECKING:
    from retrieval.encoders.model_files import ModelFiles
    from retrieval.rerankers.settings import BlockRankSettings
    from retrieval.training.block_rank import BlockRankTask
    from retrieval.training.lists import Candidates
    from retrieval.training.options import TrainingOptions

KEYS = ("split", "exclude-titles-of", "limit")  # of --data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="FOLDER",
        help="a decoder: a folder, also of one GGUF file, or a name on the hub",
    )
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="DATA",
        help="a BEIR folder, perhaps with ,split=NAME ,exclude-titles-of=NAME ,limit=QUERIES for it alone; or a .jsonl file of "
        '{"query", "documents", "answer_ids"}; repeat for several',
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the run goes; the model is in its folder `model`"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out after its last checkpoint")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    add_data_arguments(parser)
    add_model_arguments(parser)
    add_training_arguments(parser)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--split",
        default="train",
        help="which qrels of BEIR folders; never those that you will test on (default: train)",
    )
    data.add_argument(
        "--exclude-titles-of",
        metavar="SPLIT",
        help="leave out queries whose documents bear a title that occurs in this split",
    )
    data.add_argument("--documents", type=int, default=30, help="of a list (default: 30)")
    data.add_argument("--depth", type=int, default=50, help="of BM25, from which negatives are drawn (default: 50)")
    data.add_argument(
        "--held-out", type=int, default=50, metavar="N", help="queries kept back for evaluation (default: 50)"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_argument_group("prompt; else as saved beside the model, or as published")
    prompt.add_argument("--document-tokens", type=int, help="the most of a document")
    prompt.add_argument("--score-layer", type=int, help="whose attention is the score, from 0")
    prompt.add_argument(
        "--query-free",
        action="store_true",
        help="documents are read before the query, so that their states can be kept",
    )
    prompt.add_argument(
        "--published-prompt",
        action="store_true",
        help="the query before the documents too, documents numbered, the score read where the answer begins; full mode needs it",
    )
    loss = parser.add_argument_group("loss")
    loss.add_argument("--loss", default="contrastive", help="contrastive or irpo (default: contrastive)")
    loss.add_argument(
        "--mode",
        default="attention",
        help="attention: the layers above the score layer are dropped; full: with the next-token loss too (default: attention)",
    )
    loss.add_argument("--temperature", type=float, default=0.05, help="of the contrastive loss (default: 0.05)")
    loss.add_argument("--weight", type=float, default=0.1, help="of the loss on attention in full mode (default: 0.1)")
    loss.add_argument("--beta", type=float, default=1.0, help="of irpo (default: 1)")
    loss.add_argument("--reference", action="store_true", help="irpo against the model as it was before training")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Of whatever is trained."""
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=int, default=500, help="(default: 500)")
    training.add_argument("--accumulation", type=int, default=4, help="lists of a step (default: 4)")
    training.add_argument("--lr", type=float, default=1e-5, help="the largest learning rate (default: 1e-5)")
    training.add_argument("--warmup", type=int, default=50, help="steps in which it is reached (default: 50)")
    training.add_argument("--schedule", default="cosine", help="cosine, linear or constant (default: cosine)")
    training.add_argument("--weight-decay", type=float, default=0.0, help="(default: 0)")
    training.add_argument("--max-gradient-norm", type=float, default=1.0, help="(default: 1)")
    training.add_argument(
        "--lora",
        type=int,
        default=0,
        metavar="RANK",
        help="train adapters of this rank alone (default: 0, all weights)",
    )
    training.add_argument(
        "--frozen-layers",
        type=int,
        default=0,
        metavar="N",
        help="leave embeddings and the first N layers as they are, which costs less (default: 0)",
    )
    training.add_argument("--gradient-checkpointing", action="store_true", help="less memory for a third more time")
    training.add_argument(
        "--precision", default="float32", help="of matrix products: float32 or bfloat16 (default: float32)"
    )
    training.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    training.add_argument("--seed", type=int, default=0, help="(default: 0)")
    training.add_argument("--evaluate-every", type=int, default=50, metavar="STEPS", help="0: never (default: 50)")
    training.add_argument("--save-every", type=int, default=50, metavar="STEPS", help="(default: 50)")
    training.add_argument(
        "--tensorboard", action="store_true", help="write event files for TensorBoard to run/tensorboard in --out too"
    )


def run(arguments: argparse.Namespace) -> int:
    from retrieval.training.block_rank import BlockRankOptions
    from retrieval.training.lists import held_out
    from retrieval.training.trainer import train

    options = training_options(arguments)
    of_lists = BlockRankOptions(
        documents=arguments.documents,
        loss=arguments.loss,
        mode=arguments.mode,
        temperature=arguments.temperature,
        weight=arguments.weight,
        beta=arguments.beta,
    )
    if arguments.reference and arguments.loss != "irpo":
        raise WinnowError(f"--reference is given with the loss {arguments.loss}; only irpo has one.")
    lists = [one for written in arguments.data for one in lists_of(written, arguments)]
    number = arguments.held_out if arguments.evaluate_every else 0
    if arguments.evaluate_every and number < 1:
        raise WinnowError(f"--held-out is {number}; evaluation needs 1 or more, or --evaluate-every 0.")
    training, evaluation = held_out(lists, number, arguments.seed)
    task = task_of(arguments, of_lists, training, evaluation)
    print(
        f"{arguments.model}: {arguments.loss} loss, {arguments.mode} mode, score layer {task.reader.settings.score_layer}, "
        f"{sum(p.numel() for p in task.model.parameters() if p.requires_grad):,} weights trained",
        f"{len(training):,} lists of {arguments.documents} documents, {len(evaluation):,} held out; {options.steps:,} steps of "
        f"{options.accumulation}",
        sep="\n",
        flush=True,
    )
    try:
        trained = train(
            task,
            options,
            arguments.out,
            resume=arguments.resume,
            progress=not arguments.no_progress,
            report=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        print(
            "winnow train: interrupted; the same command with --resume goes on after the last checkpoint.",
            file=sys.stderr,
        )
        return 130
    if trained.best_step is not None:
        print(
            f"best at step {trained.best_step:,}: {task.measure} {trained.best:.4f}, before training {trained.first:.4f}"
        )
    print(f"the model is {trained.model}: rerank with blockrank:{trained.model}")
    return 0


def training_options(arguments: argparse.Namespace) -> TrainingOptions:
    """Raises WinnowError."""
    from retrieval.training.options import TrainingOptions

    return TrainingOptions(
        steps=arguments.steps,
        learning_rate=arguments.lr,
        warmup=arguments.warmup,
        schedule=arguments.schedule,
        weight_decay=arguments.weight_decay,
        accumulation=arguments.accumulation,
        max_gradient_norm=arguments.max_gradient_norm,
        seed=arguments.seed,
        precision=arguments.precision,
        evaluate_every=arguments.evaluate_every,
        save_every=arguments.save_every,
        tensorboard=arguments.tensorboard,
    )


class Data(NamedTuple):
    """One --data, taken apart."""

    path: Path
    split: str
    exclude_titles_of: str | None
    limit: int | None


def parse_data(written: str, split: str, exclude_titles_of: str | None) -> Data:
    """FOLDER[,key=value ...]. Raises WinnowError."""
    path, *settings = written.split(",")
    found: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in KEYS or not value:
            raise WinnowError(
                f"--data {written} has {setting!r:.40}; after a comma it may have {', '.join(f'{key}=' for key in KEYS)}."
            )
        found[key] = value
    limit = found.get("limit")
    if limit is not None and not (limit.isascii() and limit.isdecimal() and int(limit) > 0):
        raise WinnowError(f"--data {written} has the limit {limit!r:.40}; it must be a whole number above 0.")
    return Data(
        Path(path),
        found.get("split", split),
        found.get("exclude-titles-of", exclude_titles_of),
        None if limit is None else int(limit),
    )


def lists_of(written: str, arguments: argparse.Namespace) -> list[Candidates]:
    """All lists of one --data, or as many as it is limited to, drawn by the seed. Raises WinnowError."""
    from eval.datasets import load_dataset, warned
    from retrieval.training.lists import candidates_of, read_lists, some_of

    data = parse_data(written, arguments.split, arguments.exclude_titles_of)
    if data.path.is_file():
        return some_of(read_lists(data.path), data.limit, arguments.seed)
    judged = warned(load_dataset(data.path, data.split))
    kept = None if data.exclude_titles_of is None else load_dataset(data.path, data.exclude_titles_of).qrels
    lists = candidates_of(
        data.path,
        judged.queries,
        judged.qrels,
        depth=arguments.depth,
        exclude_titles_of=kept,
        progress=not arguments.no_progress,
    )
    print(f"{data.path}, {data.split}: {len(lists):,} of {len(judged.queries):,} queries are of use", flush=True)
    return some_of(lists, data.limit, arguments.seed)


def task_of(
    arguments: argparse.Namespace, options: Any, training: list[Candidates], evaluation: list[Candidates]
) -> BlockRankTask:
    """With the model loaded. Raises WinnowError."""
    import torch

    from retrieval.encoders.model_files import ModelFiles
    from retrieval.rerankers.list_model import transformers_tokenizer
    from retrieval.rerankers.prompt import PromptReader
    from retrieval.training.block_rank import BlockRankTask
    from retrieval.training.ranking_model import RankingModel

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    files = ModelFiles(arguments.model)
    settings = settings_of(files, arguments)
    tokenizer = transformers_tokenizer(files)
    reader = PromptReader(tokenizer, settings)
    torch.manual_seed(arguments.seed)  # adapters begin at random
    model = RankingModel.load(
        files,
        settings,
        options.mode,
        device=device,
        lora_rank=arguments.lora,
        frozen_layers=arguments.frozen_layers,
    )
    if arguments.gradient_checkpointing:
        model.checkpoint_gradients()
    reference = None
    if arguments.reference:
        reference = RankingModel.load(files, settings, "attention", device=device)
        reference.module.eval().requires_grad_(False)
    return BlockRankTask(
        model,
        reader,
        training,
        evaluation,
        options,
        seed=arguments.seed,
        reference=reference,
        write_tokenizer=tokenizer.save_pretrained,
        of_model={"weights": files.found_fingerprint, "lora": arguments.lora, "frozen_layers": arguments.frozen_layers},
    )


def settings_of(files: ModelFiles, arguments: argparse.Namespace) -> BlockRankSettings:
    """As the checkpoint has them, with what the command says. Raises WinnowError."""
    from retrieval.rerankers import settings
    from retrieval.rerankers.list_model import num_layers_of

    said: dict[str, Any] = {"document_tokens": arguments.document_tokens, "score_layer": arguments.score_layer}
    if arguments.published_prompt:
        if arguments.query_free:
            raise WinnowError(
                "--published-prompt and --query-free are given; the published prompt has the query, so leave one out."
            )
        said |= {
            "instruction": settings.INSTRUCTION,
            "document": settings.DOCUMENT,
            "last": settings.LAST,
            "signal_tokens": (-2, -1),
        }
    said = {name: value for name, value in said.items() if value is not None}
    return settings.load_settings(files.name, files.folder, num_layers_of(files), said, query_free=arguments.query_free)
