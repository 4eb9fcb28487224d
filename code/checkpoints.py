"""Where weights come from: an embedded model, an official one, or a file.

Every way ends in a plain state dict in the layout of OpenAI's checkpoints, checked to be a CLIP's.
Nothing in a file is executed: state dicts are read with `weights_only=True`, safetensors hold
nothing but numbers, and of TorchScript archives only the tensors are read (see `read_torchscript`).
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import pooch
import safetensors.torch
import torch
from torch import Tensor

EMBEDDED_FOLDER = Path(__file__).with_name("embedded")
EMBEDDED = ("ViT-emoji", "RN-emoji")

OFFICIAL_FOLDER = "~/.cache/clip"  # and OpenAI's file names: neither package downloads twice
OFFICIAL_SITE = "https://openaipublic.azureedge.net/clip/models"
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


class CheckpointError(RuntimeError):
    """Weights could not be had. A RuntimeError, as the official package raises."""


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
    name = str(name)
    if name in EMBEDDED and embedded_file(name).is_file():
        path = embedded_file(name)
    elif name in OFFICIAL:
        path = fetch_official(name, download_root or OFFICIAL_FOLDER)
    else:
        path = Path(name).expanduser()
        if not path.is_file():
            raise CheckpointError(
                f"{name!r} is neither a known model nor a file. Known models: "
                + ", ".join(available_models())
            )
    return verify(read_file(path), path)


def embedded_file(name: str) -> Path:
    return EMBEDDED_FOLDER / f"{name}.safetensors"


def fetch_official(name: str, folder: str | PathLike) -> Path:
    """The file of the official model `name`, downloaded unless it is in `folder` already.

    A download goes to a temporary file, which takes its name once its SHA-256 is right: whatever
    interrupts it, no half file is left under that name. It is tried twice, from the start.
    """
    folder = Path(folder).expanduser()
    sha256, file_name = OFFICIAL[name].split("/")
    url = f"{OFFICIAL_SITE}/{OFFICIAL[name]}"
    cache = pooch.create(
        folder,
        base_url="",
        registry={file_name: f"sha256:{sha256}"},
        urls={file_name: url},
        retry_if_failed=1,
    )
    download = pooch.HTTPDownloader(progressbar=True, chunk_size=2**16)
    try:
        return Path(cache.fetch(file_name, downloader=download))
    except (OSError, ValueError) as error:  # network and disk; wrong checksum
        path = folder / file_name
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


def read_file(path: Path) -> Any:
    """Whatever `path` stores; its first bytes, not its name, tell the format."""
    with path.open("rb") as file:
        head = file.read(9)
    if head.endswith(b"{"):  # after the header's length, whose bytes may look like anything
        read = safetensors.torch.load_file
    elif head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path} is cut off: the end of the archive is missing")
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        read = read_torchscript if scripted else read_pickle
    elif head.startswith(b"\x80"):
        read = read_pickle
    else:
        raise CheckpointError(
            f"{path} is not a checkpoint: expected a TorchScript archive, a state dict saved with "
            "torch.save, or safetensors" + ("" if head else "; the file is empty")
        )
    try:
        return read(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can make a reader fail in any way
        raise CheckpointError(f"{path} is cut off or damaged: {error}") from error


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, provided that it is made of tensors and plain containers."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors (or is damaged). Loading it could run any code, so it "
            "is refused; save the model's state_dict() instead"
        ) from error


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive, without its program.

    `torch.jit.load` would compile the archive's program, run its `__setstate__` functions, which
    can write files, and is deprecated. But an archive is a zip file: `data.pkl` is the tree of
    modules, each the pickled dict of its attributes, and `data/<key>` are raw storages. The pickle
    module documents how to read that safely: allow only the few names such a tree is made of.
    """
    with zipfile.ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(index) as file:
            root = _ModuleTreeUnpickler(file, archive, index.removesuffix(".pkl")).load()
    return dict(_named_tensors(root))


class _Module(dict):
    """The attributes of a TorchScript object of any class."""

    __setstate__ = dict.update


def _named_tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in module.items():
        if isinstance(value, _Module):
            yield from _named_tensors(value, f"{prefix}{name}.")
        # The archive does not tell parameters from other tensors; a CLIP has one other, its mask.
        elif isinstance(value, Tensor) and name != "attn_mask":
            yield prefix + name, value


class _ModuleTreeUnpickler(pickle.Unpickler):
    """Reads `data.pkl`. No name in it can reach anything but what `find_class` lists."""

    storage_types = {  # noqa: RUF012
        "DoubleStorage": torch.float64,
        "FloatStorage": torch.float32,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "BoolStorage": torch.bool,
    }

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self.archive = archive
        self.folder = folder
        self.storages: dict[str, Tensor] = {}  # tensors may share one

    def find_class(self, module: str, name: str) -> type | Callable | torch.dtype:
        if module.split(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in self.storage_types:
            return self.storage_types[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):  # the hooks of a tensor, always empty
            return OrderedDict
        if module == "torch.jit._pickle":  # typed lists and dicts: the value, then its type
            return _untyped
        raise CheckpointError(f"{self.archive.filename} is refused: it names {module}.{name}")

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, _, _ = pid
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.folder}/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0)
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _untyped(value: Any, *_: Any) -> Any:
    return value


def verify(state_dict: Any, path: Path) -> dict[str, Tensor]:
    """`state_dict` without its extras, or an error that says why it is not a CLIP's."""
    layout = "expected a state dict in the layout of OpenAI's CLIP"
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise CheckpointError(f"{path} holds a {type(state_dict).__name__}; {layout}")
    others = [name for name, value in state_dict.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path} holds other things than tensors ({_some(others)}); {layout}")
    missing = [name for name in EVERY_CLIP_HAS if name not in state_dict]
    if not any(name in state_dict for name in IMAGE_PROJECTIONS):
        missing.append(" or ".join(IMAGE_PROJECTIONS))
    if missing:
        raise CheckpointError(
            f"{path} is not a CLIP: it has no {', '.join(missing)}; it has "
            f"{_some(list(state_dict))}; {layout}"
        )
    return {name: tensor for name, tensor in state_dict.items() if name not in EXTRAS}


def _some(names: list) -> str:
    return ", ".join(map(str, names[:4])) + (", ..." if len(names) > 4 else "")
