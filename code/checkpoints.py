"""Where weights come from: an embedded model, an official one, or a file.

Every way ends in a plain state dict in the layout of OpenAI's checkpoints, checked to be a CLIP's.
Nothing in a file is executed: safetensors hold nothing but numbers, pickles are read by
`tensor_pickles`, and of TorchScript archives only the tensors are read (see `module_tensors`).
"""

import difflib
import hashlib
import mmap
import re
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from tqdm import tqdm

from files import whole_file
from model import some
from tensor_pickles import ForeignName, Module, Stored, kind, read_archive, read_legacy, reason

EMBEDDED_FOLDER = Path(__file__).with_name("embedded")
EMBEDDED = ("ViT-emoji", "RN-emoji")

OFFICIAL_FOLDER = "~/.cache/clip"  # and OpenAI's file names: neither package downloads twice
OFFICIAL_SITE = "https://openaipublic.azureedge.net/clip/models"
PATIENCE = 30  # seconds to wait for an answer, or for a while of
SLOWEST = 10_000  # bytes a second
LARGEST = 2**31  # bytes; the official files have up to 1.3e9
FAILURES = (OSError, ValueError, HTTPException)  # network, disk and checksum; odd answers
OFFICIAL = {  # "SHA-256/file name", as in github.com/openai/CLIP, clip/clip.py
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599/RN101.pt",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd/RN50x4.pt",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c/RN50x64.pt",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": (
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt"
    ),
}

EVERY_CLIP_HAS = (
    "visual.conv1.weight",
    "token_embedding.weight",
    "positional_embedding",
    "transformer.resblocks.0.attn.in_proj_weight",
    "ln_final.weight",
    "text_projection",
    "logit_scale",
)
IMAGE_PROJECTIONS = ("visual.proj", "visual.attnpool.c_proj.weight")  # of a ViT, of a ResNet
# What OpenAI's archives hold beside the parameters; it follows from the shapes.
EXTRAS = ("input_resolution", "context_length", "vocab_size")

# What training scripts save a state dict under, beside the epoch and the optimiser. Weights as they
# were trained come before their moving average.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "module", "checkpoint"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema"),
)
# What wrappers of modules insert into names: DataParallel, torch.compile, FSDP, checkpointing.
INSERTED = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

OTHER_LAYOUTS = {  # a part of a name, and what it tells
    "lora_": "is of a LoRA: merge it into its model (merge_and_unload() in peft) and save that "
    "model's state_dict()",
    "vision_model.": "is in the layout of transformers, which is not read",
    "visual.trunk.": "is in the layout of timm (SigLIP and others), which is not read",
    "text.": "is in OpenCLIP's layout of a text tower apart, which is not read",
}
REPEATS = 10  # so many times may a file's tensors refer to the same bytes
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MANY = 100_000  # attributes of modules; the largest CLIPs have about 10,000


class CheckpointError(RuntimeError, ValueError):
    """Weights could not be had. A RuntimeError, as the official package raises."""


class Checkpoint(NamedTuple):
    """Weights in the layout of OpenAI's checkpoints, without extras."""

    path: Path
    weights: dict[str, Tensor]
    openais: bool  # known to be computed as OpenAI's: QuickGELU, heads 64 wide
    metadata: Mapping[str, str]  # of a safetensors file


def available_models() -> list[str]:
    """Names that `load` knows: the embedded models that are installed, then the official ones."""
    return [name for name in EMBEDDED if embedded_file(name).is_file()] + list(OFFICIAL)


def load_state_dict(
    name: str | PathLike, download_root: str | PathLike | None = None
) -> dict[str, Tensor]:
    """The weights of the model called `name`, or of the file at that path, on the CPU.

    `download_root` is where official files are kept (default `~/.cache/clip`). Raises
    CheckpointError, which says what is wrong and what to do.
    """
    return read(name, download_root).weights


def read(name: str | PathLike, download_root: str | PathLike | None = None) -> Checkpoint:
    """As `load_state_dict`, with what is known of the weights."""
    name = str(name)
    if name in EMBEDDED and embedded_file(name).is_file():
        path = embedded_file(name)
    elif name in OFFICIAL:
        path = fetch_official(name, download_root or OFFICIAL_FOLDER)
    else:
        path = find_file(name)
    with errors_of(path, damaged=True), path.open("rb") as file:
        metadata = read_metadata(file, path)
        content, openais = read_file(file, path)
        state_dict = verify(bare_names(unwrapped(content), path), path)
        weights = tensors(state_dict, path)
    openais = openais or name in EMBEDDED or name in OFFICIAL or has_embedded_shapes(weights)
    return Checkpoint(path, weights, openais, metadata)


def find_file(name: str) -> Path:
    """The file at the path `name`, or an error that says what may have been meant."""
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path
        inside = list(path.iterdir()) if name and path.is_dir() else None
    except (OSError, RuntimeError) as error:  # too long, a user who does not exist
        raise CheckpointError(f"{name[:80]!r} is not a file: {error}") from error
    if inside is not None:
        files = sorted(child.name for child in inside if child.is_file())
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


@contextmanager
def errors_of(path: Path, damaged: bool = False) -> Iterator[None]:
    """Errors as CheckpointErrors that name the file; `damaged`: what is not expected tells damage.

    A damaged file can make a reader fail in any way, but too little memory is not damage.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or re.search("allocate memory|enough memory", str(error)):
            problem = " needs more memory than there is"
        elif isinstance(error, PermissionError):
            problem = f" cannot be opened: {error}"
        elif damaged:
            problem = f" is cut off or damaged: {reason(error)}"
        elif isinstance(error, ValueError):
            problem = f": {error}"
        else:
            raise
        raise CheckpointError(f"{path}{problem}") from error


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


def fetch_official(name: str, folder: str | PathLike) -> Path:
    """The file of the official model `name`, downloaded unless it is in `folder` already.

    A download goes to a temporary file, which takes its name once its SHA-256 is right: whatever
    interrupts it, no half file is left under that name, and two processes do not meet. It is tried
    twice, from the start.
    """
    folder = Path(folder).expanduser()
    sha256, file_name = OFFICIAL[name].split("/")
    path, url = folder / file_name, f"{OFFICIAL_SITE}/{OFFICIAL[name]}"
    try:
        if path.exists() and file_sha256(path) == sha256:
            return path
        sweep(folder)
        try:
            download(url, path, sha256)
        except FAILURES:
            download(url, path, sha256)
        return path
    except FAILURES as error:
        embedded = [model for model in available_models() if model in EMBEDDED]
        message = [
            f"cannot download {name}: {error}",
            f"Fetch {url} by hand and save it as {path} (SHA-256 {sha256})",
        ]
        if path.exists():
            message[-1] += "; the file that is there now has another checksum"
        if embedded:
            message.append(f"Or use an embedded model ({', '.join(embedded)}): it needs no network")
        raise CheckpointError("\n".join(message)) from error


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path, sha256: str) -> None:
    """Fetch `url` as `path`. OSError if it stalls, is slow without end, or is another file."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer, whole_file(path) as unfinished:
        length = int(answer.headers.get("Content-Length", 0))
        bar = tqdm(total=length or None, unit="B", unit_scale=True, desc=path.name)
        received = counted = 0
        since = time.monotonic()
        with bar, unfinished.open("wb") as file:
            while part := answer.read1(2**20):  # what is there, without waiting for all of it
                file.write(part)
                bar.update(len(part))
                received += len(part)
                if received > LARGEST:
                    raise OSError(f"more than {LARGEST:,} bytes came")
                if (waited := time.monotonic() - since) > PATIENCE:
                    if received - counted < SLOWEST * waited:
                        raise OSError(f"less than {SLOWEST:,} bytes a second")
                    since, counted = time.monotonic(), received
        if received < length:
            raise OSError(f"the connection ended after {received:,} of {length:,} bytes")
        found = file_sha256(unfinished)
        if found != sha256:
            raise OSError(f"SHA256 hash of downloaded file: {found} instead of {sha256}")


def sweep(folder: Path) -> None:
    """Remove what killed downloads left. A living one writes more often than once an hour."""
    for path in folder.glob(".unfinished-*.pt"):
        try:
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()
        except FileNotFoundError:  # another process was first
            continue


def read_metadata(file: BinaryIO, path: Path) -> Mapping[str, str]:
    """What a safetensors file says of itself; nothing of files in other formats."""
    head = file.read(9)
    file.seek(0)
    if not is_safetensors(head):
        return {}
    with safetensors.safe_open(path, "pt") as content:
        return content.metadata() or {}


def is_safetensors(head: bytes) -> bool:
    """Whether the first nine bytes are those of such a file: the length of its header, and `{`."""
    return len(head) == 9 and head.endswith(b"{")


def read_file(file: BinaryIO, path: Path) -> tuple[Any, bool]:
    """Whatever a file stores, and whether it is an archive of OpenAI's.

    Its first bytes, not its name, tell the format. Tensors of pickles are still in the open file.
    """
    head = file.read(9)
    file.seek(0)
    if is_safetensors(head):
        return safetensors.torch.load_file(path), False
    try:
        if head.startswith(b"PK"):
            return read_zip(file, path)
        if head.startswith(b"\x80"):
            return read_legacy(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), False
    except ForeignName as name:
        raise CheckpointError(
            f"{path} is refused: it names {name} and so holds more than tensors; reading that "
            "could run any code; save the model's state_dict() instead"
        ) from name
    raise CheckpointError(
        f"{path} is not a checkpoint: expected a TorchScript archive, a state dict saved with "
        "torch.save, or safetensors" + ("" if head else "; the file is empty")
    )


def read_zip(file: BinaryIO, path: Path) -> tuple[Any, bool]:
    """What an archive of torch.save or of TorchScript stores, and whether it is OpenAI's."""
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"{path} is cut off: the end of the archive is missing")
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    folders = [
        name.removesuffix("/data.pkl") for name in names if re.fullmatch("[^/]+/data.pkl", name)
    ]
    if len(folders) != 1:
        raise CheckpointError(
            f"{path} is a zip archive ({some(names)}) and not a checkpoint; unpack it, and give "
            "the file with the weights"
        )
    if not any(info.CRC for info in archive.infolist()):
        raise CheckpointError(
            f"{path} was saved without checksums, so damage could not be seen; save it with "
            "torch.serialization.set_crc32_options(True)"
        )
    content = read_archive(archive, folders[0], path.stat().st_size)
    if not isinstance(content, Module):
        return content, False
    content = dict(module_tensors(content))
    return content, set(EXTRAS) <= set(content) and not calls_gelu(archive)


def calls_gelu(archive: zipfile.ZipFile) -> bool:
    """Whether the program of a TorchScript archive does, or is too long to be OpenAI's."""
    program = [info for info in archive.infolist() if info.filename.endswith(".py")]
    if sum(info.file_size for info in program) > 2**24:
        return True
    return any(b"torch.gelu(" in archive.read(info) for info in program)


def module_tensors(root: Module) -> Iterator[tuple[str, Stored]]:
    """The tensors of a TorchScript archive, without its program.

    `torch.jit.load` would compile the archive's program, run its `__setstate__` functions, which
    can write files, and is deprecated. But an archive holds the tree of modules, each the pickled
    dict of its attributes, as `tensor_pickles` reads it.
    """
    modules, attributes = [("", root)], 0
    for prefix, module in modules:  # which grows meanwhile
        attributes += len(module.attributes)
        if attributes > MANY or len(prefix) > 1000:
            raise ValueError("a tree of modules without end")
        for name, value in module.attributes.items():
            if isinstance(value, Module):
                modules.append((f"{prefix}{name}.", value))
            # Parameters cannot be told from other tensors; a CLIP has one other, its mask.
            elif isinstance(value, Stored) and name != "attn_mask":
                yield f"{prefix}{name}", value


def unwrapped(content: Any) -> Any:
    """The state dict in what a training script saved."""
    for _ in range(3):  # one in the other
        if isinstance(content, Mapping):
            inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
            content = inner[0] if inner else content
    return content


def bare_names(state_dict: Any, path: Path) -> Any:
    """`state_dict` with a CLIP's own names, without what wrappers and outer modules add to them."""
    if not isinstance(state_dict, Mapping):
        return state_dict
    if not all(isinstance(name, str) for name in state_dict):
        raise CheckpointError(f"{path} has names that are no text")
    bare = {
        ".".join(part for part in name.split(".") if part not in INSERTED): value
        for name, value in state_dict.items()
    }
    first = EVERY_CLIP_HAS[0]
    outer = [name.removesuffix(first) for name in bare if name.endswith(first)]
    if len(bare) < len(state_dict) or len(outer) > 1:
        raise CheckpointError(
            f"{path} holds several models ({some(outer)}); save one of them alone"
        )
    if outer in ([], [""]) or any("lora_" in name for name in bare):
        return bare
    beside = [name for name in bare if not name.startswith(outer[0])]
    if beside:
        raise CheckpointError(
            f"{path} holds a CLIP as {outer[0]!r} and beside it {some(beside)}; save the CLIP's "
            "own state_dict()"
        )
    return {name.removeprefix(outer[0]): value for name, value in bare.items()}


def verify(state_dict: Any, path: Path) -> dict[str, Tensor]:
    """`state_dict` without its extras, or an error that says why it is not a CLIP's."""
    layout = "expected a state dict in the layout of OpenAI's CLIP"
    if not isinstance(state_dict, Mapping) or not state_dict:
        what = "nothing" if state_dict == {} else f"a {kind(state_dict)}"
        raise CheckpointError(f"{path} holds {what}; {layout}")
    others = [name for name, value in state_dict.items() if not isinstance(value, Tensor | Stored)]
    if others:
        raise CheckpointError(f"{path} holds other things than tensors ({some(others)}); {layout}")
    missing = [name for name in EVERY_CLIP_HAS if name not in state_dict]
    if not any(name in state_dict for name in IMAGE_PROJECTIONS):
        missing.append(" or ".join(IMAGE_PROJECTIONS))
    for part, what in OTHER_LAYOUTS.items():
        if missing and any(f".{part}" in f".{name}" for name in state_dict):
            raise CheckpointError(f"{path} {what}")
    if missing:
        raise CheckpointError(
            f"{path} is not a CLIP: it has no {', '.join(missing)}; it has "
            f"{some(list(state_dict))}; {layout}"
        )
    return {name: tensor for name, tensor in state_dict.items() if name not in EXTRAS}


def tensors(state_dict: Mapping[str, Tensor | Stored], path: Path) -> dict[str, Tensor]:
    """`state_dict` in memory. CheckpointError if there is anything but finite numbers."""
    if sum(value.nbytes for value in state_dict.values()) > REPEATS * path.stat().st_size:
        raise CheckpointError(
            f"{path} is refused: its tensors take up more than {REPEATS} times its size"
        )
    weights = {}
    for name, value in state_dict.items():
        weights[name] = tensor = value.tensor() if isinstance(value, Stored) else value
        if tensor.dtype not in FLOATS and not name.endswith("num_batches_tracked"):
            raise CheckpointError(
                f"{path}: {name} holds {tensor.dtype}, not floating-point numbers"
            )
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise CheckpointError(f"{path}: the weights {name} hold NaN or infinity")
    return weights
