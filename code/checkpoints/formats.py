"""The formats of files: safetensors, and what torch.save and TorchScript write.

Nothing in a file is executed: safetensors hold nothing but numbers, pickles are read by
`tensor_pickles`, and of TorchScript archives only the tensors are read (see `module_tensors`).
"""

import mmap
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch

from checkpoints.errors import CheckpointError, errors_of
from checkpoints.json_files import read_json
from checkpoints.tensor_pickles import ForeignName, Module, Stored, read_archive, read_legacy
from model import some

# What OpenAI's archives hold beside the parameters; it follows from the shapes.
EXTRAS = ("input_resolution", "context_length", "vocab_size")
INDEX = ".safetensors.index.json"  # how the file ends that names the shards
MANY = 100_000  # attributes of modules; the largest CLIPs have about 10,000


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
    if is_index(path):
        return read_shards(path), False
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


def is_index(path: Path) -> bool:
    return path.name.endswith(INDEX)


def shard_names(index: Path) -> list[str]:
    """The files beside an index that hold its tensors."""
    places = read_json(index).section("weight_map").values.values()
    if not all(isinstance(place, str) and Path(place).name == place for place in places):
        raise CheckpointError(f"{index} names shards that are no files beside it")
    return sorted(set(places))


def read_shards(index: Path) -> dict[str, Any]:
    """The tensors of all shards, each where the index says."""
    places = read_json(index).section("weight_map").values
    found = {}
    for name in shard_names(index):
        shard = index.parent / name
        if not shard.is_file():
            raise CheckpointError(f"{index} names {name}, and there is no such file beside it")
        with errors_of(shard, damaged=True):
            content = safetensors.torch.load_file(shard)
        if content.keys() != {tensor for tensor, place in places.items() if place == name}:
            raise CheckpointError(f"{shard} does not hold the tensors that {index.name} says")
        found |= content
    return found


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
