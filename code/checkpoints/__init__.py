"""Where weights come from: an embedded model, an official one, or a file.

Every way ends in a plain state dict in the layout of OpenAI's checkpoints, checked to be a CLIP's.
What its tensors do not tell comes from the configuration beside the file (`claims`), or is asked
for (`configuration`).
"""

import difflib
import re
from collections.abc import Mapping
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import safetensors
from safetensors.torch import load_file
from torch import Tensor

from checkpoints.claims import Claims, claims_beside
from checkpoints.errors import CheckpointError, errors_of
from checkpoints.formats import read_file, read_metadata
from checkpoints.hubs import HUB, KINDS, OPEN_CLIP, fetch
from checkpoints.layouts import bare_names, tensors, unwrapped, verify
from checkpoints.official import OFFICIAL, OFFICIAL_FOLDER, fetch_official
from checkpoints.transformers_layout import in_openais_layout, is_transformers
from model import some

EMBEDDED_FOLDER = Path(__file__).resolve().parents[1] / "embedded"
SIGLIP = "SigLIP-emoji"  # another network than all others, see `siglip.py`
EMBEDDED = ("ViT-emoji", "ViT-plain", SIGLIP, "RN-emoji", "RN-plain")
ADAPTER = "adapter_model.safetensors"  # peft's; reading it says what to do


class Checkpoint(NamedTuple):
    """Weights in the layout of OpenAI's checkpoints, without extras."""

    path: Path
    weights: dict[str, Tensor]
    openais: bool  # known to be computed as OpenAI's: QuickGELU, heads 64 wide
    metadata: Mapping[str, str]  # of a safetensors file
    claims: Claims | None  # of the configuration that came with it


def available_models() -> list[str]:
    """Names that `load` knows: the embedded models that are installed, then the official ones."""
    return embedded_models() + list(OFFICIAL)


def embedded_models() -> list[str]:
    """Names of those that are installed."""
    return [name for name in EMBEDDED if embedded_file(name).is_file()]


def load_state_dict(
    name: str | PathLike, download_root: str | PathLike | None = None
) -> dict[str, Tensor]:
    """The weights of the model called `name`, or at that path, on the CPU; see `clip_.load`.

    `download_root` is where official files are kept (default `~/.cache/clip`). Raises
    CheckpointError, which says what is wrong and what to do.
    """
    return read(name, download_root).weights


def read(name: str | PathLike, download_root: str | PathLike | None = None) -> Checkpoint:
    """As `load_state_dict`, with what is known of the weights."""
    name = str(name)
    known = name in EMBEDDED or name in OFFICIAL
    claims = None
    if name in EMBEDDED and embedded_file(name).is_file():
        path = embedded_file(name)
    elif name in OFFICIAL:
        path = fetch_official(name, download_root or OFFICIAL_FOLDER, embedded_models())
    elif name.startswith((OPEN_CLIP, HUB)):
        path, claims = fetch(name)
    else:
        path = find_file(name)
    with errors_of(path, damaged=True), path.open("rb") as file:
        metadata = read_metadata(file, path)
        content, openais = read_file(file, path)
        state_dict = verify(bare_names(unwrapped(content), path), path)
        weights = tensors(state_dict, path)
        from_transformers = is_transformers(weights)
        if from_transformers:
            weights = in_openais_layout(weights, path)
    if claims is None and not known:
        claims = claims_beside(path, from_transformers)
    openais = openais or known or has_embedded_shapes(weights)
    return Checkpoint(path, weights, openais, metadata, claims)


def read_siglip() -> dict[str, Tensor]:
    """The weights of SigLIP-emoji, on the CPU. Raises CheckpointError if they are damaged."""
    path = embedded_file(SIGLIP)
    with errors_of(path, damaged=True):
        return load_file(path)


def find_file(name: str) -> Path:
    """The file at the path `name`, or the weights in a folder as the hub has them; or an error that
    says what may have been meant.
    """
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path
        inside = list(path.iterdir()) if name and path.is_dir() else None
    except (OSError, RuntimeError) as error:  # too long, a user who does not exist
        raise CheckpointError(f"{name[:80]!r} is not a file: {error}") from error
    if inside is not None:
        files = sorted(child.name for child in inside if child.is_file())
        for usual in (*chain.from_iterable(KINDS.values()), ADAPTER):
            if usual in files:
                return path / usual
        raise CheckpointError(f"{name!r} is a folder; give a file in it ({some(files)})")
    known = {plain(model): model for model in available_models()}
    close = difflib.get_close_matches(plain(name), known, 1, cutoff=0.85)
    meant = f" Did you mean {known[close[0]]!r}?" if close else ""
    raise CheckpointError(
        f"{name[:80]!r} is neither a known model nor a file.{meant} Known models: "
        + ", ".join(available_models())
    )


def plain(name: str) -> str:
    """Letters and digits, small."""
    return re.sub(r"[\W_]", "", name).lower()


def embedded_file(name: str) -> Path:
    return EMBEDDED_FOLDER / f"{name}.safetensors"


def has_embedded_shapes(weights: Mapping[str, Tensor]) -> bool:
    """Whether a model was trained as one of the embedded ones; no public CLIP has their shapes."""
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    for path in map(embedded_file, EMBEDDED):
        if path.is_file():
            with errors_of(path, damaged=True), safetensors.safe_open(path, "pt") as file:
                if shapes == {name: file.get_slice(name).get_shape() for name in file.keys()}:  # noqa: SIM118
                    return True
    return False
