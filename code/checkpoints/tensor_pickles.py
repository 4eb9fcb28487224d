"""Tensors and arrays from pickles, with nothing executed and no byte read out of bounds.

A pickle is a program: it names functions and says on what to call them. Here a name stands for a
small function of this file, or is refused; no function of numpy's or torch's is within reach, and
only objects made while reading are ever filled. What comes out are plain containers, and in the
place of tensors and arrays `Stored` ones: which bytes, seen how, and checked to lie within.

Three things are written with such pickles: what `pickle` writes itself; archives of `torch.save`
and TorchScript (zip files: `data.pkl`, and a storage's bytes in each `data/<key>`); and what
`torch.save` wrote before PyTorch 1.6, which is also how a pickle holds the storage of a tensor. Of
these only zip files have checksums.
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, BinaryIO

import torch
from torch import Tensor

PART = 2**20  # bytes read at a time
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py: MAGIC_NUMBER

STORAGES = {  # the names of torch's classes for the storages of numbers
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NUMBERS = {  # numpy's names of numbers: kind and bytes
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u8": torch.uint64,
    "u4": torch.uint32,
    "u2": torch.uint16,
    "u1": torch.uint8,
    "b1": torch.bool,
}


class ForeignName(pickle.UnpicklingError):
    """A pickle names something that is no tensor's."""


def reason(error: Exception) -> str:
    """What an error says, which may quote what a file holds, in brief."""
    text = str(error) or type(error).__name__
    text = f"KeyError: {text}" if isinstance(error, KeyError) else text
    return text if len(text) <= 300 else f"{text[:300]}..."


class Dict(dict):
    """A dict of texts and numbers: hashing other keys, deeply nested ones, can end the process."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | bytes | int | float | None):
            raise pickle.UnpicklingError(f"a key of type {type(key).__name__}")
        super().__setitem__(key, value)

    def fill(self, state: Any) -> None:
        """What state dicts keep beside their tensors, the versions of modules, is not needed."""


class Module:
    """A TorchScript object of any class."""

    def __init__(self) -> None:
        self.attributes = Dict()

    def fill(self, state: Any) -> None:
        if not isinstance(state, Dict):
            raise pickle.UnpicklingError(f"a module whose state is not a dict but {kind(state)}")
        self.attributes = state


class Storage:
    """Numbers in a row, whose bytes are still in a file: `find` gives the file and their number."""

    def __init__(self, dtype: torch.dtype, count: int, find: Callable[[], tuple[BinaryIO, int]]):
        self.dtype = dtype
        self.count = count
        self.find = find
        self.kept: Tensor | None = None

    def numbers(self) -> Tensor:
        if self.kept is None:
            file, length = self.find()
            if length != self.count * self.dtype.itemsize:
                raise EOFError(f"a storage of {self.count} values has {length} bytes")
            data = torch.empty(length, dtype=torch.uint8)
            place = memoryview(data.numpy())
            for start in range(0, length, PART):
                place[start : start + PART] = file.read(min(PART, length - start))
            self.kept = data.bool() if self.dtype == torch.bool else data.view(self.dtype)
        return self.kept


class Stored:
    """A tensor or an array that is still in its file: a part of a storage, and how it is seen."""

    def __init__(self) -> None:
        self.see(_storage_of(b"", torch.float32), 0, (0,), (1,))

    def see(self, storage: Any, offset: Any, size: Any, stride: Any) -> "Stored":
        size, stride = whole(size), whole(stride)
        (offset,) = whole([offset])
        if not isinstance(storage, Storage) or len(size) != len(stride):
            raise pickle.UnpicklingError(
                "a tensor without storage, or with other axes than strides"
            )
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= storage.count:
            raise pickle.UnpicklingError(
                f"a tensor {list(size)} reaches beyond its storage of {storage.count} values"
            )
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        return self

    def fill(self, state: Any) -> None:
        """As arrays are pickled: version, shape, dtype, whether columns come first, bytes."""
        _, shape, dtype, columns_first, data = state
        self.see(*array(data, dtype, shape, "F" if columns_first else "C"))

    @property
    def nbytes(self) -> int:
        return math.prod(self.size) * self.storage.dtype.itemsize

    def tensor(self) -> Tensor:
        numbers = self.storage.numbers()
        if 0 in self.size:
            return numbers.new_empty(self.size)
        return numbers.as_strided(self.size, self.stride, self.offset)


def kind(value: Any) -> str:
    """The type of what was read, as it is called elsewhere."""
    return {Dict: "dict", Stored: "tensor"}.get(type(value), type(value).__name__)


def whole(numbers: Iterable[Any]) -> tuple[int, ...]:
    """`numbers`, or an error if one is not whole or is negative, or if they are many."""
    numbers = tuple(numbers)
    if len(numbers) > 64:
        raise pickle.UnpicklingError(f"a tensor with {len(numbers)} axes")
    if not all(isinstance(number, int) and 0 <= number < 2**63 for number in numbers):
        raise pickle.UnpicklingError("a size, stride or offset that is not a whole number from 0")
    return numbers


class Dtype:
    """A numpy dtype: its name, then by `fill` its byte order."""

    def __init__(self, name: Any, *_: Any):
        if not isinstance(name, str) or name not in NUMBERS:
            what = repr(name[:20]) if isinstance(name, str) else kind(name)
            raise pickle.UnpicklingError(f"arrays of {what}, which are not numbers")
        self.torch = NUMBERS[name]
        self.swapped = False

    def fill(self, state: Any) -> None:
        order = state[1]
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an unknown byte order")
        self.swapped = order == ">"


def array(
    data: Any, dtype: Any, shape: Any, order: str, axis_order: Any = None
) -> tuple[Storage, int, tuple[int, ...], tuple[int, ...]]:
    """What a tensor of these bytes sees: storage, offset, size and strides."""
    shape = whole(shape)
    count = math.prod(shape)
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array without dtype or bytes")
    if len(data) != count * dtype.torch.itemsize:
        raise pickle.UnpicklingError(f"an array {list(shape)} of {len(data)} bytes")
    axes = range(len(shape))
    inner = [shape[:axis] if order == "F" else shape[axis + 1 :] for axis in axes]
    stride = tuple(math.prod(sizes) for sizes in inner)
    if order == "K" and axis_order is not None:  # an array of other axes, transposed
        axes = whole(axis_order)
        if sorted(axes) != list(range(len(shape))):
            raise pickle.UnpicklingError("axes in an order that is none")
    size, stride = (tuple(values[axis] for axis in axes) for values in (shape, stride))
    return _storage_of(data, dtype.torch, dtype.swapped), 0, size, stride


def _storage_of(data: bytes, dtype: torch.dtype, swapped: bool = False) -> Storage:
    def find() -> tuple[BinaryIO, int]:
        if not swapped or not data:
            return io.BytesIO(data), len(data)
        numbers = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, dtype.itemsize)
        return io.BytesIO(numbers.flip(1).numpy().tobytes()), len(data)

    return Storage(dtype, len(data) // dtype.itemsize, find)


class Name:
    """What a name in a pickle stands for; it can be called, and nothing else."""

    __slots__ = ("make",)

    def __init__(self, make: Callable):
        self.make = make


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Stored:
    return Stored().see(storage, offset, size, stride)


def _array(*arguments: Any) -> Stored:
    return Stored().see(*array(*arguments))


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, as they are pickled up to protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes that are not encoded as pickle does")
    return text.encode("latin1")


def _first(value: Any, *_: Any) -> Any:
    return value


def _meta(*_: Any) -> None:
    raise pickle.UnpicklingError("a meta tensor, which has no values")


def _unused(*_: Any) -> None:
    """A size, a device: what training keeps beside its tensors."""


def _storage(data: Any) -> Any:
    return read_legacy(io.BytesIO(data))


NAMES: dict[str, Name | torch.dtype] = {
    "collections.OrderedDict": Name(lambda: Dict()),
    "builtins.bytes": Name(lambda: b""),
    "__builtin__.bytes": Name(lambda: b""),
    "torch._utils._rebuild_tensor": Name(_tensor),
    "torch._utils._rebuild_tensor_v2": Name(_tensor),
    "torch._utils._rebuild_parameter": Name(_first),
    "torch._utils._rebuild_meta_tensor_no_storage": Name(_meta),
    "torch.Size": Name(_unused),
    "torch.device": Name(_unused),
    "numpy.ndarray": Name(_unused),  # an argument of `_reconstruct`
    "numpy.dtype": Name(Dtype),
}
NAMES |= {f"torch.{name}": dtype for name, dtype in STORAGES.items()}
NAMES |= {str(dtype): Name(_unused) for dtype in (*STORAGES.values(), *NUMBERS.values())}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    NAMES[f"{_core}.multiarray._reconstruct"] = Name(lambda *_: Stored())
    NAMES[f"{_core}.multiarray.scalar"] = Name(lambda dtype, data: _array(data, dtype, (), "C"))
    NAMES[f"{_core}.numeric._frombuffer"] = Name(_array)


ONCE = {("_codecs", "encode"): _encoded, ("torch.storage", "_load_from_bytes"): _storage}


def _made_once(known: dict[int, tuple[Any, Any]], make: Callable, data: Any, *others: Any) -> Any:
    """`make(data, ...)`, or what it made of the same data before."""
    if id(data) not in known:
        known[id(data)] = data, make(data, *others)
    return known[id(data)][1]


class Unpickler(pickle._Unpickler):
    """Reads a pickle whose names are those of `NAMES`.

    It is the standard library's in Python: the one in C allocates whatever a file claims to hold,
    64 GB for the memo of nine bytes.
    """

    def __init__(self, file: BinaryIO, find: Callable[[str], tuple[BinaryIO, int]] | None = None):
        super().__init__(file)
        self.find_storage = find  # by its key, as `Storage` does
        self.storages: dict[str, Storage] = {}  # tensors may share one
        self.once: dict[int, tuple[Any, Any]] = {}  # what was made of bytes, which may be many

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return Name(Module)
        if module == "torch.jit._pickle":  # typed lists and dicts: the value, then its type
            return Name(_first)
        if (module, name) in ONCE:
            return Name(partial(_made_once, self.once, ONCE[module, name]))
        if f"{module}.{name}" not in NAMES:
            raise ForeignName(f"{module}.{name}"[:100])
        return NAMES[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Storage:
        what, dtype, key, _, count, *view = pid
        if what != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if view not in ([], [None]):
            raise pickle.UnpicklingError("a view of a storage, as before PyTorch 0.4")
        storage = Storage(dtype, *whole([count]), partial(self.find_storage, key))
        known = self.storages.setdefault(key, storage)
        if (known.dtype, known.count) != (dtype, count):
            raise pickle.UnpicklingError(f"the storage {key[:20]!r} in two ways")
        return known

    def load_call(self) -> None:
        arguments = self.stack.pop()
        name = self.stack[-1]
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("a call of what is no name")
        self.stack[-1] = name.make(*arguments)

    def load_fill(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Dict | Module | Stored | Dtype):
            raise pickle.UnpicklingError("a state for what has none")
        self.stack[-1].fill(state)

    def load_empty_dict(self) -> None:
        self.append(Dict())

    def load_filled_dict(self) -> None:
        items = self.pop_mark()
        self.append(Dict())
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][key] = value

    def load_bytes_to_change(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # the library's makes room first

    def refuse(self) -> None:
        raise pickle.UnpicklingError("an object that is no tensor, array or plain container")

    dispatch = {  # noqa: RUF012
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_call,
        pickle.NEWOBJ[0]: load_call,
        pickle.BUILD[0]: load_fill,
        pickle.EMPTY_DICT[0]: load_empty_dict,
        pickle.DICT[0]: load_filled_dict,
        pickle.BYTEARRAY8[0]: load_bytes_to_change,
        **dict.fromkeys(
            b"".join(
                [
                    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX),
                    *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
                    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
                ]
            ),
            refuse,
        ),
    }


def read_pickle(file: BinaryIO) -> Any:
    """What `pickle.dump` wrote. `file` is in memory: its reads give no more than there is."""
    return Unpickler(file).load()


def read_legacy(file: BinaryIO) -> Any:
    """What `torch.save` wrote before PyTorch 1.6: five pickles, then the storages one by one.

    `file` is in memory (or mapped to it), and open as long as tensors are taken from it.
    """
    if Unpickler(file).load() != LEGACY_MAGIC:
        raise pickle.UnpicklingError("a pickle that torch.save did not write")
    _version, system = Unpickler(file).load(), Unpickler(file).load()
    if not (isinstance(system, Dict) and system.get("little_endian") is True):
        raise pickle.UnpicklingError("the bytes of a big-endian machine")
    unpickler = Unpickler(file, lambda key: _part(file, *parts[key]))
    content = unpickler.load()
    parts: dict[str, tuple[int, int]] = {}  # where each storage lies, and its bytes
    for key in Unpickler(file).load():
        storage = unpickler.storages[key] if isinstance(key, str) else None
        if storage is None or int.from_bytes(file.read(8), "little") != storage.count:
            raise EOFError("a storage of another length")
        parts[key] = file.tell(), storage.count * storage.dtype.itemsize
        file.seek(sum(parts[key]))
    end = file.tell()
    file.seek(0, io.SEEK_END)
    if file.tell() < end:
        raise EOFError("the last storages are missing")
    return content


def _part(file: BinaryIO, start: int, length: int) -> tuple[BinaryIO, int]:
    file.seek(start)
    return file, length


def read_archive(archive: zipfile.ZipFile, folder: str, size: int) -> Any:
    """What is in an archive of `torch.save` or of TorchScript, whose files lie in `folder`.

    `size` is the archive's, in bytes; it is open as long as tensors are taken from it. zipfile
    compares the checksum of whatever it reads.
    """
    infos = archive.infolist()
    if sum(info.file_size for info in infos if info.compress_type == zipfile.ZIP_STORED) > size:
        raise zipfile.BadZipFile("its parts overlap")

    def find(name: str) -> tuple[BinaryIO, int]:
        info = archive.getinfo(f"{folder}/{name}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile("its tensors are compressed, which torch.save never does")
        return archive.open(info), info.file_size

    if f"{folder}/byteorder" in archive.namelist() and find("byteorder")[0].read() != b"little":
        raise pickle.UnpicklingError("the bytes of a big-endian machine")
    index = io.BytesIO(find("data.pkl")[0].read())
    return Unpickler(index, lambda key: find(f"data/{key}")).load()
