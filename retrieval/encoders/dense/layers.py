"""What follows the pooling in a dense model of sentence-transformers: Dense, LayerNorm, Normalize; read without their weights."""

from __future__ import annotations

from typing import Any, NamedTuple

from index.dense.options import MOST_DIMENSIONS
from index.errors import ModelError
from retrieval.encoders.model_files import ModelFiles, read_json

ACTIVATIONS = (
    "Identity",
    "Tanh",
    "ReLU",
    "GELU",
    "SiLU",
    "Sigmoid",
    "ELU",
    "LeakyReLU",
    "Softplus",
    "Mish",
)  # of torch.nn
OF_A_VECTOR = "sentence_embedding"  # what the library calls it


class Layer(NamedTuple):
    """One step from a vector to the next; without files it makes its length 1."""

    kind: str  # Dense, LayerNorm, Normalize
    files: ModelFiles | None = None

    def describe(self) -> dict[str, Any]:
        """What `read` needs."""
        return {"kind": self.kind, "files": None if self.files is None else self.files.describe()}

    @classmethod
    def read(cls, description: dict[str, Any]) -> Layer:
        files = description["files"]
        return cls(description["kind"], None if files is None else ModelFiles.read(files))


NORMALIZE = Layer("Normalize")


def read_layer(name: str, kind: str, files: ModelFiles, width: int) -> tuple[Layer | None, int]:
    """(The layer, the dimension of what it gives) after vectors of `width`; None for one that does nothing. Raises ModelError."""
    if kind == "Dropout":
        return None, width
    path = files.folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    for setting in ("module_input_name", "module_output_name"):
        if config.get(setting) not in (None, OF_A_VECTOR):
            raise ModelError(
                f"{path} has the {setting} {config[setting]!r:.60}; only {OF_A_VECTOR!r} makes a dense encoder."
            )
    if kind == "Normalize":
        return NORMALIZE, width
    if kind == "LayerNorm":
        check_width(path, "dimension", config.get("dimension"), width)
        return Layer(kind, files), width
    if kind != "Dense":
        raise ModelError(
            f"{name} has the module {kind!r:.60} after its pooling; known are Dense, LayerNorm, Normalize and Dropout."
        )
    check_width(path, "in_features", config.get("in_features"), width)
    activation_of(files)
    return Layer(kind, files), dimension(path, "out_features", config.get("out_features"))


def activation_of(files: ModelFiles) -> str:
    """The name in torch.nn. Raises ModelError for one that is not known here: it would be the checkpoint's own code."""
    dotted = files.config.get("activation_function", "torch.nn.modules.activation.Tanh")
    found = str(dotted).rpartition(".")[2]
    if not str(dotted).startswith("torch.nn.") or found not in ACTIVATIONS:
        raise ModelError(
            f"{files.folder / 'config.json'} has the activation_function {dotted!r:.80}; known are {', '.join(ACTIVATIONS)} of torch.nn."
        )
    return found


def pooling_of(files: ModelFiles, hidden: int) -> tuple[dict[str, Any], int]:
    """(Options that a Pooling module's file gives, the width of hidden states, which must be `hidden`). Raises ModelError."""
    path = files.folder / "config.json"
    config = read_json(path)
    flags = {
        mode: f"pooling_mode_{flag}" for mode, flag in FLAGS.items()
    }  # as before release 5.4, in the order of their vectors
    told = config.get("pooling_mode")
    if told is None:
        told = [mode for mode, flag in flags.items() if config.get(flag)] or ["mean"]
    modes = [told] if isinstance(told, str) else told
    unknown = [mode for mode in modes if mode not in MODES] if isinstance(modes, list) else [modes]
    if unknown or not modes:
        raise ModelError(f"{path} has the pooling_mode {told!r:.60}; known are {', '.join(MODES)}.")
    include = config.get("include_prompt", True)
    if not isinstance(include, bool):
        raise ModelError(f"{path} has include_prompt = {include!r:.60}; it must be true or false.")
    setting = "embedding_dimension" if "embedding_dimension" in config else "word_embedding_dimension"
    check_width(path, setting, config.get(setting, hidden), hidden)
    return {"pooling": "+".join(MODES[mode] for mode in modes), "include_prompt": include}, hidden


MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
FLAGS = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}


def dimension(path: Any, setting: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_DIMENSIONS:
        raise ModelError(
            f"{path} has {setting} = {value!r:.60}; it must be a whole number from 1 to {MOST_DIMENSIONS:,}."
        )
    return value


def check_width(path: Any, setting: str, value: Any, width: int) -> None:
    if dimension(path, setting, value) != width:
        raise ModelError(
            f"{path} has {setting} = {value}, what comes before it gives {width}; get the checkpoint again."
        )
