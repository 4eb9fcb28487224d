"""Files of every kind, whole, cut off, with flipped bytes, and with code in them."""

import itertools
import json
import os
import pickle
import random
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import PIL.Image
import safetensors.torch
import torch
from fuzzed_calls import described
from outcomes import Tally, for_all, mostly
from torch import Tensor, nn

from checkpoints import load_state_dict
from clip_ import load, make_preprocess
from emotions import emotion_features
from image_utils import open_image, read_mask
from model import CLIP
from pickle_loader import Pickle_data_loader
from small_clip import small_vit

# Pictures

FORMATS = {  # and the modes that each can hold
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "webp": ("RGB", "RGBA"),
    "bmp": ("1", "L", "P", "RGB"),
    "gif": ("L", "P"),
    "jpeg": ("L", "RGB", "CMYK"),
}
LOSSLESS = ("png", "tiff", "bmp")
OTHER_FILES = (
    b"",
    b"not a picture",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{ } loop\n",
    b"%PDF-1.4\n1 0 obj\n",
    b"\x89HDF\r\n\x1a\n",
    b"GRIB\0\0\0\1",
    b"BUFR\0\0\0\1",
)


@st.composite
def pictures(draw) -> tuple[str, PIL.Image.Image, dict]:
    """The name of a format, a picture that it can hold, and how to save it."""
    kind = draw(st.sampled_from(list(FORMATS)))
    mode = draw(st.sampled_from(FORMATS[kind]))
    sides = st.integers(1, 60)
    size = draw(mostly(st.tuples(sides, sides), st.sampled_from([(1, 900), (900, 1)])))
    levels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (*size[::-1], 4))
    if mode == "I;16":
        picture = PIL.Image.fromarray(np.uint16(257 * levels[..., 0]))
    elif mode == "F":
        picture = PIL.Image.fromarray(np.float32(levels[..., 0]))
    else:
        between = mode if mode in ("L", "LA", "RGBA") else "RGB"
        picture = PIL.Image.fromarray(np.uint8(levels)).convert(between).convert(mode)
    options = {}
    turned = draw(mostly(st.none(), st.integers(0, 9)))
    if turned is not None and kind in ("png", "webp", "jpeg"):
        options["exif"] = PIL.Image.Exif()
        options["exif"][274] = turned
    return kind, picture, options


def picture_files(tally: Tally, cases: int) -> None:
    """In all formats and modes: as the picture in memory is, if the format loses nothing."""
    preprocess = make_preprocess(32)

    @for_all(cases, drawn=pictures())
    def judge(drawn):
        kind, picture, options = drawn
        with folder() as path:
            path /= f"photo.{kind}"
            picture.save(path, **options)

            def fault(pixels: Tensor) -> str:
                if pixels.shape != (3, 32, 32) or not pixels.isfinite().all():
                    return f"it gives {described(pixels)}"
                if kind not in LOSSLESS or options or picture.mode == "P":
                    return ""
                same = (pixels - preprocess(picture)).abs().max() < 0.05
                return "" if same else "other colours than the picture's"

            said = f"{kind}, {picture.mode}, {picture.size}, {options}"
            tally.judge(said, lambda: preprocess(open_image(path)), fault, valid=True)


def damaged_pictures(tally: Tally, cases: int) -> None:
    """Cut off, with flipped bytes, or something else of that name: a picture, or refused."""

    @for_all(
        cases,
        drawn=pictures(),
        other=mostly(st.none(), st.sampled_from(OTHER_FILES)),
        data=st.data(),
    )
    def judge(drawn, other, data):
        kind, picture, options = drawn
        with folder() as path:
            path /= f"photo.{kind}"
            picture.save(path, **options)
            content = damaged(path.read_bytes(), data) if other is None else other
            path.write_bytes(content)
            preprocess = make_preprocess(32)
            for answer in (
                lambda: preprocess(open_image(path)),
                lambda: read_mask(path, (9, 9)).float(),
            ):
                tally.judge(
                    f"{kind}, {content[:40]!r}",
                    answer,
                    lambda found: "" if found.isfinite().all() else "pixels that are not finite",
                    naming=path.name,
                )


def damaged(content: bytes, data) -> bytes:
    """Cut off somewhere, or with up to four bytes that are others."""
    place = st.integers(0, max(0, len(content) - 1))
    if data.draw(st.booleans()):
        return content[: data.draw(place)]
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(place)] = data.draw(st.integers(0, 255))
    return bytes(changed)


# Checkpoints


def smallest() -> dict[str, Tensor]:
    """The weights of the smallest CLIP there is, in half precision."""
    torch.manual_seed(0)
    model = CLIP(8, 16, 1, 64, 16, 4, 8, 64, 1, 1)
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


def save_scripted(weights: dict[str, Tensor], path: Path) -> None:
    """As OpenAI ships its models: a module for every dot of the names."""

    class Tree(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Tree()
    for name, tensor in weights.items():
        *parts, last = name.split(".")
        module = root
        for part in parts:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(last, nn.Parameter(tensor))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's archives remain
        torch.jit.save(torch.jit.script(root), path)


SAVE: dict[str, Callable] = {
    "torch.save": torch.save,
    "torch.save, legacy": partial(torch.save, _use_new_zipfile_serialization=False),
    "safetensors": safetensors.torch.save_file,
    "TorchScript": save_scripted,
}
# Reading a file takes that much longer: only every so many points in its middle
STEPS = {"torch.save": 1, "torch.save, legacy": 300, "safetensors": 10, "TorchScript": 10}
EDGE = 4000  # bytes at both ends, where formats keep what says how the rest is read


def cut_checkpoints(tally: Tally, cases: int) -> None:
    """Cut off at every point: refused, or all the weights if only padding is missing.

    At `cases` of the points, if there are more.
    """
    weights = smallest()
    for kind, save in SAVE.items():
        with folder() as path:
            path /= "mine.pt"
            save(weights, path)
            size = path.stat().st_size
            points = {*range(EDGE), *range(EDGE, size, STEPS[kind]), *range(size - EDGE, size)}
            points = sorted(points, reverse=True)
            for point in points[:: -(-len(points) * len(SAVE) // cases)]:
                os.truncate(path, point)
                tally.judge(
                    f"{kind}, cut at {point} of {size}",
                    partial(load_state_dict, path),
                    partial(other_weights, weights),
                    naming=path.name,
                )


def other_weights(weights: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    same = found.keys() == weights.keys() and all(
        torch.equal(found[name], tensor) for name, tensor in weights.items()
    )
    return "" if same else "loads as other weights"


def flipped_checkpoints(tally: Tally, cases: int) -> None:
    """One bit or byte is another. Formats with checksums refuse it, or what they hold is intact;
    the others too, unless it lies among the values.
    """
    weights, rng = smallest(), random.Random(0)
    for kind, save in SAVE.items():
        with folder() as path:
            path /= "mine.pt"
            save(weights, path)
            content, same = path.read_bytes(), partial(other_weights, weights)
            tally.judge(kind, partial(read_and_build, path), same, valid=True)
            for _ in range(cases // len(SAVE)):
                changed = bytearray(content)
                place = rng.choice((rng.randrange(EDGE), rng.randrange(-EDGE, 0)))
                place = rng.choice((place, rng.randrange(len(content))))
                changed[place] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
                path.write_bytes(changed)
                without_checksums = kind in ("torch.save, legacy", "safetensors")
                tally.judge(
                    f"{kind}, byte {place} is {changed[place]}",
                    partial(read_and_build, path),
                    same_shapes if without_checksums else same,
                    naming=path.name,
                )


def read_and_build(path: Path) -> dict[str, Tensor]:
    """The weights; the network that they make must take a picture and a text."""
    model, _ = load(path, "cpu", activation="quickgelu", heads=(1, 1))
    with torch.no_grad():
        model(torch.zeros(1, 3, 16, 16), torch.tensor([[1, 7, 0, 0]]))
    return load_state_dict(path)


def same_shapes(found: dict[str, Tensor]) -> str:
    expected = {name: tensor.shape for name, tensor in smallest().items()}
    same = {name: tensor.shape for name, tensor in found.items()} == expected
    return "" if same else "loads as another network"


# Code

CALLS = (  # what an attacker would call; each would make the file {}
    ("os", "system", ("touch {}",)),
    ("posix", "system", ("touch {}",)),
    ("subprocess", "check_output", (["touch", "{}"],)),
    ("builtins", "exec", ("open('{}', 'w')",)),
    ("builtins", "eval", ("open('{}', 'w')",)),
    ("builtins", "open", ("{}", "w")),
    ("_io", "open", ("{}", "w")),
    ("io", "FileIO", ("{}", "w")),
    ("shutil", "copy", (os.devnull, "{}")),
    ("numpy", "save", ("{}", [1])),
    ("numpy", "memmap", ("{}", "u1", "w+", 0, 1)),
    ("torch", "save", ([1], "{}")),
    ("torch.serialization", "save", ([1], "{}")),
    ("torch.utils.collect_env", "run", ("touch {}",)),
    ("__torch__.os", "system", ("touch {}",)),
)
PROGRAMS = {  # how a pickle calls `found` with the arguments `given`, or each of them by itself
    "REDUCE": "\x80\x04{found}{given}R.",
    "INST": "({each}{inst}.",
    "OBJ": "({found}{each}o.",
    "NEWOBJ": "\x80\x04{found}{given}\x81.",
    "NEWOBJ_EX": "\x80\x04{found}{given}}}\x92.",
    "STACK_GLOBAL": "\x80\x04{module}{name}\x93{given}R.",
    "BUILD": "\x80\x04{found}){found}{given}Rb.",
}


def program(way: str, module: str, name: str, arguments: tuple) -> bytes:
    """A pickle that calls `module.name(*arguments)`."""
    pickled = lambda value: pickle.dumps(value, 2)[2:-1].decode("latin-1")  # noqa: E731
    return (
        PROGRAMS[way]
        .format(
            found=f"c{module}\n{name}\n",
            inst=f"i{module}\n{name}\n",
            module=pickled(module),
            name=pickled(name),
            given=pickled(arguments),
            each="".join(map(pickled, arguments)),
        )
        .encode("latin-1")
    )


def as_batch(path: Path, code: bytes) -> Callable:
    (path / "batch0.bin").write_bytes(code)
    return lambda: list(Pickle_data_loader(path, 1))


def as_checkpoint(path: Path, code: bytes) -> Callable:
    (path / "batch0.bin").write_bytes(code)
    return partial(load_state_dict, path / "batch0.bin")


def as_archive(path: Path, code: bytes, more: tuple[str, ...] = ()) -> Callable:
    with zipfile.ZipFile(path / "batch0.bin", "w") as archive:
        archive.writestr("archive/data.pkl", code)
        for name in ("version", "byteorder", *more):
            archive.writestr(f"archive/{name}", "3" if name == "version" else "little")
    return partial(load_state_dict, path / "batch0.bin")


def code_in_files(tally: Tally, cases: int) -> None:
    """Calls, in every way that a pickle has, in batches and checkpoints: refused, and not made."""
    carriers = [as_batch, as_checkpoint, as_archive, partial(as_archive, more=("constants.pkl",))]
    everything = list(itertools.product(PROGRAMS, CALLS, carriers))
    for way, (module, name, arguments), carrier in shuffled(everything)[:cases]:
        with folder() as path:
            made = path / "made"
            given = eval(repr(arguments).replace("{}", made.as_posix()))
            answer = carrier(path, program(way, module, name, given))
            said = f"{module}.{name} by {way}"
            tally.judge(said, answer, lambda _: "it is accepted", naming="batch0.bin")
            if made.exists():
                tally.wrong.append(f"{said}: the call is made")


def shuffled(values: list) -> list:
    return random.Random(0).sample(values, len(values))


# Batches and features


def batches() -> Iterator[tuple[str, bytes]]:
    """Pickles of one batch, by every protocol, of tensors, arrays and lists."""
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    for name, image in {
        "tensors": torch.from_numpy(pixels),
        "half": torch.from_numpy(pixels).half(),
        "arrays": pixels,
        "strided": np.asfortranarray(pixels),
        "lists": pixels.tolist(),
    }.items():
        for protocol in range(2, 6):
            yield f"{name}, {protocol}", pickle.dumps({"image": image, "label": [0, 1]}, protocol)


def damaged_batches(tally: Tally, cases: int) -> None:
    """Pickled batches, whole, cut off and with other bytes: read, or refused by name."""

    @for_all(cases, drawn=st.sampled_from(list(batches())), data=st.data())
    def judge(drawn, data):
        said, content = drawn
        whole = data.draw(st.integers(0, 9)) == 0
        content = content if whole else damaged(content, data)
        with folder() as path:
            (path / "batch0.bin").write_bytes(content)

            def fault(found: list) -> str:
                (batch,) = found
                image = batch.get("image", torch.zeros(0))
                return "" if not whole or image.float().sum() == 96 * 95 / 2 else "other values"

            tally.judge(
                f"{said}, {len(content)} bytes, {content[-8:]!r}",
                lambda: list(Pickle_data_loader(path, 2)),
                fault,
                naming="batch0.bin",
                valid=whole,
            )


def features_of_emotions(tally: Tally, cases: int) -> None:
    """JSON of every kind, whole and damaged: unit vectors of the model's width, or refused."""
    model = small_vit()
    numbers = st.floats(-1, 1, width=32)
    values = mostly(
        st.lists(numbers, min_size=16, max_size=16),
        st.one_of(
            st.lists(st.floats(), min_size=16, max_size=16),
            st.just([0.0] * 16),
            st.lists(numbers, max_size=17),
            st.recursive(st.none() | st.text(max_size=3), st.lists, max_leaves=3),
        ),
    )

    @for_all(
        cases,
        table=mostly(st.dictionaries(st.text(max_size=5), values, max_size=3), values),
        data=st.data(),
    )
    def judge(table, data):
        content = json.dumps(table).encode()
        content = content if data.draw(st.integers(0, 3)) else damaged(content, data)
        with folder() as path:
            path /= "features.json"
            path.write_bytes(content)

            def fault(found: dict) -> str:
                lengths = torch.stack(list(found.values())).norm(dim=-1)
                return "" if (lengths - 1).abs().max() < 1e-3 else "not of length 1"

            said = repr(content[:60])
            answer = partial(emotion_features, model, path)
            tally.judge(said, answer, fault, naming=path.name)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
