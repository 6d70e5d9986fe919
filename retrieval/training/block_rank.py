"""Training of BlockRank: what a list teaches a decoder, and how well it ranks lists that it is not trained on.

Gupta et al., arXiv:2510.05396: next-token loss of the relevant documents' numbers plus `weight` times a loss on the attention masses;
in attention mode the latter alone. Every epoch draws each list anew (`Candidates.drawn`).
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch

from index.errors import WinnowError
from index.manifest import as_json
from retrieval.rerankers.block_pass import Prompt
from retrieval.rerankers.prompt import PromptCutWarning, PromptReader
from retrieval.training.lists import Candidates, RankingList
from retrieval.training.losses import contrastive_attention_loss, irpo_loss, next_token_loss
from retrieval.training.ranking_model import Mode, RankingModel
from retrieval.training.trainer import Losses

Loss = Literal["contrastive", "irpo"]
CUTOFF = 10  # of nDCG


@dataclass(frozen=True)
class BlockRankOptions:
    """Checked when made; raises WinnowError.

    documents    of a list, the relevant ones included
    loss         contrastive: the published one; irpo: `retrieval.training.losses.irpo_loss`
    mode         attention: the loss on the masses alone; full: next-token loss plus `weight` times that
    temperature  of the contrastive loss
    beta         of the IRPO loss
    """

    documents: int = 30
    loss: Loss = "contrastive"
    mode: Mode = "attention"
    temperature: float = 0.05
    weight: float = 0.1
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("loss", Loss), ("mode", Mode)):
            if getattr(self, name) not in get_args(known):
                raise WinnowError(f"{name} is {getattr(self, name)!r:.40}; it must be {' or '.join(get_args(known))}.")
        if isinstance(self.documents, bool) or not isinstance(self.documents, int) or self.documents < 2:
            raise WinnowError(f"documents is {self.documents!r:.40}; a list needs 2 or more.")
        for name in ("temperature", "weight", "beta"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise WinnowError(f"{name} is {getattr(self, name)!r:.40}; it must be above 0.")


class ReadList(NamedTuple):
    """A list as a model reads it."""

    prompt: Prompt
    signal: np.ndarray  # int64: rows of the last block
    answer: slice | None  # tokens of the last block that are to be predicted
    num_cut: int  # documents


class BlockRankModel(Protocol):
    """What is trained: `RankingModel`, or another one that answers so."""

    module: torch.nn.Module

    def masses(
        self, prompt: Prompt, rows: np.ndarray, answer: slice | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(ln of the documents' masses [documents], logits of the answer's tokens or None)."""
        ...


class BlockRankTask:
    """A `retrieval.training.trainer.Task`."""

    measure = f"nDCG@{CUTOFF}"

    def __init__(
        self,
        model: RankingModel,
        reader: PromptReader,
        training: Sequence[Candidates],
        evaluation: Sequence[Candidates],
        options: BlockRankOptions,
        *,
        seed: int = 0,
        reference: BlockRankModel | None = None,
        write_tokenizer: Callable[[Path], Any] = lambda folder: None,
        of_model: dict[str, Any] | None = None,
    ):
        """
        reference        of the IRPO loss; not trained
        write_tokenizer  fills a folder with the model's tokenizer
        of_model         what tells the model from others, for `describe`

        Raises WinnowError in full mode for a prompt whose documents have no numbers that the model could answer with.
        """
        if options.mode == "full" and not reader.settings.has_ids:
            raise WinnowError(
                f"document is {reader.settings.document!r:.60}, without {{id}}, and in full mode the model is to answer with ids; give a prompt "
                "that has them, such as the published one, or train in attention mode."
            )
        self.ranking, self.model, self.reader = model, model.module, reader
        self.training, self.options, self.seed, self.reference = training, options, seed, reference
        self.evaluation = [
            one.whole(options.documents, (seed, number, len(evaluation))) for number, one in enumerate(evaluation)
        ]
        self.write_tokenizer, self.of_model = write_tokenizer, of_model or {}
        for given in training[:1]:  # what does not fit into the model's positions is told before a run begins
            read = self.read(given.whole(options.documents, (seed,)), answered=options.mode == "full")
            model.blocks.check_positions(read.prompt, causal=False)

    def __len__(self) -> int:
        return len(self.training)

    def read(self, given: RankingList, *, answered: bool) -> ReadList:
        """Documents that are too long are cut and counted, without a warning for each list."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptCutWarning)
            instruction = self.reader.instruction(given.query)
            documents = self.reader.documents(given.documents)
            if answered:
                asked = self.reader.answered(given.query, [i for i, grade in enumerate(given.relevance) if grade > 0])
                last, signal, answer = asked.ids, asked.signal, slice(asked.completion, len(asked.ids))
            else:
                last, answer = self.reader.last(given.query), None
                signal = self.reader.signal(last)
        position = self.reader.settings.position_of_last(len(instruction))
        prompt = Prompt(instruction, [one.ids for one in documents], last, position)
        return ReadList(prompt, signal, answer, sum(one.num_cut > 0 for one in documents))

    def losses(self, number: int, epoch: int) -> Losses:
        """Of one list, drawn for this epoch."""
        given = self.training[number].drawn(self.options.documents, (self.seed, epoch, number))
        read = self.read(given, answered=self.options.mode == "full")
        log_mass, logits = self.ranking.masses(read.prompt, read.signal, read.answer)
        relevance = torch.tensor(given.relevance, device=log_mass.device)
        aux = self.on_masses(log_mass, relevance, read)
        parts = {
            self.options.loss: aux.item(),
            "P@1": float(relevance[log_mass.argmax()] > 0),
            "mass": log_mass.detach().exp()[relevance > 0].sum().item(),
            "documents_cut": float(read.num_cut),
        }
        total = aux
        if logits is not None:
            ids = torch.from_numpy(read.prompt.last[read.answer]).to(logits.device)
            next_token = next_token_loss(logits, ids)
            parts["next_token"] = next_token.item()
            total = next_token + self.options.weight * aux
        return Losses(total, parts, read.prompt.num_tokens)

    def on_masses(self, log_mass: torch.Tensor, relevance: torch.Tensor, read: ReadList) -> torch.Tensor:
        if self.options.loss == "contrastive":
            return contrastive_attention_loss(log_mass, relevance > 0, self.options.temperature)
        before = None
        if self.reference is not None:
            with torch.no_grad():
                before = self.reference.masses(read.prompt, read.signal)[0]
        return irpo_loss(log_mass, relevance, before, self.options.beta)

    def evaluate(self) -> dict[str, float]:
        """Means over the lists that are held out; equal masses rank by place in the list."""
        if not self.evaluation:
            raise WinnowError("there are 0 lists to evaluate on; hold some out, or evaluate every 0 steps.")
        gained, first = [], []
        for given in self.evaluation:
            read = self.read(given, answered=False)
            log_mass, _ = self.ranking.masses(read.prompt, read.signal)
            order = torch.argsort(log_mass, descending=True, stable=True).tolist()
            ranked = [given.relevance[place] for place in order]
            gained.append(ndcg(ranked, CUTOFF))
            first.append(float(ranked[0] > 0))
        return {self.measure: float(np.mean(gained)), "P@1": float(np.mean(first))}

    def save(self, folder: Path) -> None:
        self.ranking.save(folder)
        self.write_tokenizer(folder)

    def describe(self) -> dict[str, Any]:
        settings = hashlib.sha256(as_json(asdict(self.reader.settings))).hexdigest()
        return {
            **asdict(self.options),
            **self.of_model,
            "has_reference": self.reference is not None,
            "prompt": f"{self.reader.fingerprint[:16]}, {settings[:16]}",
            "lists": digest(self.training),
            "held_out": digest(self.evaluation),
        }


def ndcg(ranked: Sequence[int], cutoff: int) -> float:
    """Of relevances in ranked order, one above 0 at least; linear gain, as trec_eval has it."""
    gain, ideal = (
        sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades[:cutoff], start=1))
        for grades in (list(ranked), sorted(ranked, reverse=True))
    )
    return gain / ideal


def digest(lists: Sequence[Candidates] | Sequence[RankingList]) -> str:
    """How many, and a checksum of all that they hold."""
    found, known = hashlib.sha256(), dict[str, str]()
    for one in lists:
        for field in one:
            texts = [field] if isinstance(field, str) else [str(value) for value in field]
            for text in texts:  # the same documents are in many lists
                if text not in known:
                    known[text] = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
            found.update("".join(known[text] for text in texts).encode())
    return f"{len(lists):,}, {found.hexdigest()[:16]}"
