"""What keeps the weights of a sparse encoder few, how strongly it acts, and when it has failed.

A regulariser is a scalar of weights, float32 [texts, vocabulary], 0 or more; a text of no terms is a row of zeros, which counts as a
text. Two of the same name in published code may divide by other numbers: each says what it averages over.
"""

from __future__ import annotations

import math

import torch

from retrieval.training.run_folder import TrainingError

NOT_ZERO = 0.01  # added to sums of `anti_zero`, so that it is finite where all weights are 0
PROPORTIONAL = 1.0  # of `SparsityWeight`: response steps are thus also the encoder's lag that it makes up for
LARGEST_ERROR = 1.5  # a running mean of e^1.5 = 4.5 times the wanted terms is steered like any that is larger
BOUNDS = 1000.0  # a steered weight is at most so many times what it was given as, and at least its part


def flops(weights: torch.Tensor) -> torch.Tensor:
    """A scalar: sum over terms of (mean over texts of w)^2, the operations of scoring two such texts by inverted lists.

    FLOPS (Paria et al., arXiv:2004.05665; SPLADE, Formal et al., arXiv:2107.05720). It depends on how many texts are averaged:
    OpenSearch's code averages over the queries of a batch and adds up the ranks of their documents, sentence-transformers' over
    all texts of a batch, as here. Raises TrainingError for no text and weights below 0.
    """
    check_weights(weights)
    return weights.mean(0).square().sum()


def l1(weights: torch.Tensor) -> torch.Tensor:
    """A scalar: mean over texts of the sum of w. Raises TrainingError for no text and weights below 0."""
    check_weights(weights)
    return weights.sum(1).mean()


def masked_flops(weights: torch.Tensor, threshold: int) -> torch.Tensor:
    """A scalar: FLOPS without the texts of at most `threshold` terms, which are sparse enough as they are.

    The l0 mask of Shen et al. (arXiv:2504.14839). The mean is still over all texts, those left out as zeros, as in their code and in
    sentence-transformers: the fewer texts are too long, the weaker it acts. Raises TrainingError for no text, weights or a threshold
    below 0.
    """
    check_weights(weights)
    if not threshold >= 0:
        raise TrainingError(f"the threshold of masked FLOPS is {threshold!r}; it must be 0 or more terms.")
    long = (weights != 0).sum(1, keepdim=True) > threshold
    return flops(weights * long)


def idf_flops(weights: torch.Tensor, idf: torch.Tensor) -> torch.Tensor:
    """A scalar: sum over terms of (mean over texts of w / idf)^2, FLOPS that costs frequent terms more.

    IDF-aware FLOPS (Geng et al., arXiv:2411.04403), in this reading: version 1 of the paper puts the IDF into the loss, version 2
    into the match, sum of idf_t w_t over the query's terms, with plain FLOPS on w; so does the released code. Written for what a term
    adds to a score, u = idf w, that plain FLOPS is the sum of (mean u / idf)^2, which is this function of u. So:

    - queries whose terms all weigh 1, or whose weights are learned: this, on the documents' weights;
    - queries whose terms weigh their IDF: `flops` on the documents' weights is already the paper's, and this counts the IDF twice.

    idf  float32 [vocabulary], above 0: smoothed, such as ln(1 + (N - df + 0.5) / (df + 0.5))

    Raises TrainingError for no text, weights below 0 and an IDF that is not as said.
    """
    check_vector("IDF", idf, weights)
    if not (idf.isfinite() & (idf > 0)).all():
        wrong = (~(idf.isfinite() & (idf > 0))).nonzero()[0].item()
        raise TrainingError(
            f"the IDF of term {wrong} is {idf[wrong].item():g}; it must be above 0: smooth it, as ln(1 + (N - df + 0.5) / (df + 0.5)) does."
        )
    check_weights(weights)
    return (weights.mean(0) / idf).square().sum()


def df_flops(
    weights: torch.Tensor,
    document_frequency: torch.Tensor,
    num_documents: int,
    alpha: float = 0.1,
    beta: float = 10.0,
) -> torch.Tensor:
    """A scalar: sum over terms of (a mean over texts of w)^2, where a grows from 0 to 1 with the share x of documents with the term.

        a = 1 / (1 + (x^(log_alpha 2) - 1)^beta),  x = document frequency / number of documents

    DF-FLOPS (Porco et al., arXiv:2505.15070), which shortens the longest posting lists. The frequencies are those of the encoder's
    own terms, from texts encoded now and then (the paper: every 100 steps); they carry no gradient.

    document_frequency  [vocabulary], 0 to num_documents
    alpha               the share at which a is one half, above 0 and below 1
    beta                how steeply a rises there, above 0

    Raises TrainingError for no text, weights below 0, and numbers that are not as said.
    """
    check_vector("document frequencies", document_frequency, weights)
    if not 0 < alpha < 1 or not 0 < beta < math.inf:
        raise TrainingError(
            f"alpha and beta of DF-FLOPS are {alpha!r} and {beta!r}; give 0 < alpha < 1 and beta above 0."
        )
    possible = (document_frequency >= 0) & (document_frequency <= num_documents)
    if num_documents < 1 or not possible.all():
        wrong = document_frequency[~possible][:1].tolist()
        raise TrainingError(
            f"document frequencies such as {wrong} cannot be of {num_documents!r} documents; count both in the same texts, at least one."
        )
    check_weights(weights)
    share = document_frequency.detach().to(weights.dtype) / num_documents
    # x^(log_alpha 2) = e^(ln x ln 2 / ln alpha): 1 at x = 1, 2 at x = alpha, infinite at 0
    activation = 1 / (1 + torch.expm1(share.log() * (math.log(2) / math.log(alpha))) ** beta)
    return (activation * weights.mean(0)).square().sum()


def anti_zero(query_weights: torch.Tensor, document_weights: torch.Tensor) -> torch.Tensor:
    """A scalar: 1 / (sum of all queries' w)^2 + 1 / (sum of all documents' w)^2, against a batch whose weights all vanish.

    As in naver's SPLADE trainer, but that 0.01 is added to each sum: all zeros are then 20,000, with a gradient that is finite. A
    single empty text among others costs next to nothing. Raises TrainingError for no text and weights below 0.
    """
    check_weights(query_weights)
    check_weights(document_weights)
    return (query_weights.sum() + NOT_ZERO) ** -2 + (document_weights.sum() + NOT_ZERO) ** -2


def mean_terms(weights: torch.Tensor) -> float:
    """Terms with weight in a text, mean over texts."""
    return float(torch.count_nonzero(weights).item()) / len(weights)


class SparsityWeight(torch.nn.Module):
    """What a regulariser is multiplied by, step after step. All its state is in buffers, so a resumed run goes on the same.

    Without `terms` it is SPLADE's schedule: weight (t / warmup)^2 at step t < warmup, then weight.

    With `terms` it is steered to that many terms a text. It rises by the same schedule from the first step at which there are more
    (before, it is 0) until the schedule ends or terms are down to those wanted; from there, with e = ln(running mean of terms / terms)
    limited to -1.5 to 1.5, a proportional-integral controller moves it in each step:

        ln weight += (e now - e before) + e / response

    As only steps are added up, and none before the schedule has ended, nothing winds up, there or at the bounds. An encoder that
    follows its weight with a lag of `response` steps is approached without overshoot; one several times slower, in waves that die.

    weight     at the end of the schedule; 0 or more, above 0 if steered. A steered one stays within a 1000th and 1000 times of it
    warmup     steps of the schedule, 0: none
    terms      wanted in a text
    response   steps in which terms e times too many make it e times larger
    smoothing  steps over which the running mean forgets

    Raises TrainingError for numbers that are not as said.

    >>> weight = SparsityWeight(0.08, warmup=4)
    >>> weight.update(terms=300.0, step=0); weight.update(terms=300.0, step=1)
    >>> weight.value
    0.02
    """

    log_weight: torch.Tensor
    running_terms: torch.Tensor
    step: torch.Tensor
    rise_from: torch.Tensor
    steered: torch.Tensor

    def __init__(
        self, weight: float, warmup: int, terms: float | None = None, response: int = 200, smoothing: int = 20
    ):
        super().__init__()
        least = 0 if terms is None else math.ulp(0.0)
        for name, value, smallest in (
            ("weight", weight, least),
            ("warm-up", warmup, 0),
            ("number of terms", 1 if terms is None else terms, math.ulp(0.0)),
            ("response", response, 1),
            ("smoothing", smoothing, 1),
        ):
            if not smallest <= value < math.inf:
                wanted = "above 0" if 0 < smallest < 1 else f"{smallest} or more"
                raise TrainingError(f"the {name} of a sparsity weight is {value!r}; it must be {wanted}.")
        self.weight, self.warmup, self.terms = weight, warmup, terms
        self.response, self.smoothing = response, smoothing
        double = torch.float64  # thousands of small steps are added up
        self.register_buffer("log_weight", torch.tensor(math.log(weight) if weight else -math.inf, dtype=double))
        self.register_buffer("running_terms", torch.tensor(-1.0, dtype=double))  # -1: nothing seen yet
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("rise_from", torch.tensor(0 if terms is None else -1))  # -1: not yet
        self.register_buffer("steered", torch.tensor(terms is not None and warmup == 0))

    @property
    def value(self) -> float:
        """The weight of the step that comes next; of step 0 before the first update."""
        if self.steered:
            return math.exp(self.log_weight.item())
        if self.rise_from < 0:
            return 0.0
        risen = int((self.step - self.rise_from).item())
        return self.weight * (risen / self.warmup) ** 2 if risen < self.warmup else self.weight

    def update(self, terms: float, step: int) -> None:
        """Once at the end of each step: with the terms of its texts, on average, and its number from 0. Raises TrainingError for terms
        that are no number or below 0."""
        if not 0 <= terms < math.inf:
            raise TrainingError(
                f"the texts of step {step} have {terms!r} terms on average; give a finite number of 0 or more."
            )
        before = self.running_terms.item()
        now = terms if before < 0 else before + (terms - before) / self.smoothing
        self.running_terms.fill_(now)
        self.step.fill_(step + 1)
        if self.terms is None:
            return
        if self.steered:
            error = self.error(now)
            change = PROPORTIONAL * (error - self.error(before)) if before >= 0 else 0.0
            self.move(self.log_weight.item() + change + error / self.response)
        elif self.rise_from < 0:
            if now > self.terms:
                self.rise_from.fill_(step)
        elif now <= self.terms or step + 1 - self.rise_from >= self.warmup:
            self.move(math.log(self.value))
            self.steered.fill_(True)

    def error(self, running: float) -> float:
        """How far there are too many terms, in logarithms."""
        assert self.terms is not None
        least = self.terms * math.exp(-LARGEST_ERROR)
        return min(math.log(max(running, least) / self.terms), LARGEST_ERROR)

    def move(self, log_weight: float) -> None:
        """Within the bounds."""
        middle, far = math.log(self.weight), math.log(BOUNDS)
        self.log_weight.fill_(min(max(log_weight, middle - far), middle + far))


class CollapseWatch(torch.nn.Module):
    """Ends a run whose texts have lost all terms, or do not lose them. Its counts are buffers: a resumed run goes on the same.

    texts       what they are, in the sentence: "documents" or "queries"
    vocabulary  terms that a text could have
    patience    steps in a row that must be bad
    warmup      steps in which a text may well have more than half of the vocabulary
    """

    empty_steps: torch.Tensor
    full_steps: torch.Tensor

    def __init__(self, texts: str, vocabulary: int, patience: int = 100, warmup: int = 0):
        super().__init__()
        if vocabulary < 1 or patience < 1 or warmup < 0:
            raise TrainingError(
                f"a watch over {vocabulary} terms with a patience of {patience} and a warm-up of {warmup} steps cannot be; give 1 or more of "
                "the first two and 0 or more of the last."
            )
        self.texts, self.vocabulary, self.patience, self.warmup = texts, vocabulary, patience, warmup
        self.register_buffer("empty_steps", torch.tensor(0))
        self.register_buffer("full_steps", torch.tensor(0))

    def update(self, terms: float, weight: float, step: int) -> None:
        """Once a step: terms of its texts on average, the weight of their regulariser, its number from 0.

        Raises TrainingError where terms were below 1, or after the warm-up above half of the vocabulary, in `patience` steps in a row.
        """
        full = step >= self.warmup and terms > self.vocabulary / 2
        self.empty_steps.fill_(int(self.empty_steps.item()) + 1 if terms < 1 else 0)
        self.full_steps.fill_(int(self.full_steps.item()) + 1 if full else 0)
        had = f"{self.texts} had {terms:,.1f} of {self.vocabulary:,} terms on average at step {step + 1:,}"
        if self.empty_steps >= self.patience:
            cure = (
                f"the sparsity weight of {self.texts}, now {weight:g}, is too high; train anew with a lower one, or a longer warm-up of it."
                if weight > 0
                else f"the sparsity weight of {self.texts} is 0, so it is not the cause; train anew with a lower learning rate."
            )
            raise TrainingError(f"{had} and fewer than 1 in each of {self.patience:,} steps: {cure}")
        if self.full_steps >= self.patience:
            raise TrainingError(
                f"{had} and more than half in each of {self.patience:,} steps: the sparsity weight of {self.texts}, now {weight:g}, is too "
                "low; train anew with a higher one, or a shorter warm-up of it."
            )


def check_weights(weights: torch.Tensor) -> None:
    """Raises TrainingError unless they are a matrix of at least one text, of 0 or more; NaN passes, and is the loss then."""
    if weights.ndim != 2 or weights.numel() == 0:
        raise TrainingError(
            f"weights are of shape {list(weights.shape)}; give [texts, vocabulary] with at least one of each."
        )
    if (weights < 0).any():
        text, term = (weights < 0).nonzero()[0].tolist()
        raise TrainingError(
            f"the weight of term {term} in text {text} of the batch is {weights[text, term].item():g}; give 0 or more, as after a ReLU."
        )


def check_vector(name: str, given: torch.Tensor, weights: torch.Tensor) -> None:
    """Raises TrainingError unless it has a number for each term of the weights."""
    if given.shape != weights.shape[-1:]:
        raise TrainingError(
            f"the {name} are of shape {list(given.shape)}, the weights of {list(weights.shape)}; give one number for each term of the "
            "vocabulary."
        )
