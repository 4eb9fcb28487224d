"""Damaged and hostile checkpoints: the right weights, or an error that names the file.

None is executed, none takes more memory than its size lets expect, none hangs.
"""

import io
import pickle
import random
import re
import zipfile

import pytest
import safetensors.torch
import torch

from checkpoint_files import FORMATS, KNOWN, Tree, save_scripted, small_vit
from checkpoints import CheckpointError, load_state_dict
from clip_ import load


@pytest.fixture(scope="module")
def weights():
    return dict(small_vit(300).state_dict())


def refused(path, message=""):
    with pytest.raises(CheckpointError, match=re.escape(str(path)) + f".*{message}") as error:
        load(path, "cpu", **KNOWN)
    assert len(str(error.value)) < 700


def what_comes_of(path):
    try:
        return load(path, "cpu", **KNOWN)[0].state_dict()
    except CheckpointError as error:
        return error


class Says:
    """Pickled as a call: of a function, with arguments, then with a state."""

    def __init__(self, function, arguments, state=None):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


def damaged(content: bytes, how: random.Random) -> bytes:
    """`content` cut off, or with bytes flipped, lost or replaced, most at its ends."""
    content = bytearray(content)
    ends = how.randrange(6000), -1 - how.randrange(6000), how.randrange(len(content))
    place = how.choice(ends) % len(content)
    match how.randrange(4):
        case 0:
            del content[place:]
        case 1:
            content[place] ^= 1 << how.randrange(8)
        case 2:
            del content[place : place + 1 + how.randrange(20)]
        case 3:
            content[place : place + 12] = how.randbytes(12)
    return bytes(content)


@pytest.mark.parametrize("format", ["torchscript", "zip"])
def test_a_damaged_archive_gives_the_same_weights_or_an_error_that_names_it(
    tmp_path, weights, format
):
    path, how = tmp_path / "mine.pt", random.Random(0)
    FORMATS[format](weights, path)
    content, kept = path.read_bytes(), 0
    for _ in range(60):
        path.write_bytes(damaged(content, how))
        read = what_comes_of(path)
        if isinstance(read, CheckpointError):
            assert str(path) in str(read)
        else:
            assert read.keys() == weights.keys()
            assert all(torch.equal(read[name], weights[name]) for name in weights)
            kept += 1
    assert kept < 30


@pytest.mark.parametrize("format", ["legacy", "safetensors"])
def test_damage_that_no_checksum_shows_is_an_error_that_names_the_file_or_a_whole_network(
    tmp_path, weights, format
):
    path, how = tmp_path / "mine.pt", random.Random(0)
    FORMATS[format](weights, path)
    content, errors = path.read_bytes(), 0
    for _ in range(60):
        path.unlink()  # what is read of safetensors is the file
        path.write_bytes(damaged(content, how))
        read = what_comes_of(path)
        if isinstance(read, CheckpointError):
            assert str(path) in str(read)
            errors += 1
    assert errors > 20


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path, weights):
    path = tmp_path / "mine.pt"
    torch.save(weights, path)
    content = bytearray(path.read_bytes())
    place = content.index(weights["visual.proj"].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    refused(path, "damaged: Bad CRC-32")


def test_an_archive_without_checksums_is_refused_with_what_to_do(tmp_path, weights):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, tmp_path / "mine.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    refused(tmp_path / "mine.pt", r"without checksums.*set_crc32_options\(True\)")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("write", [torch.save, safetensors.torch.save_file], ids=["pt", "st"])
def test_weights_that_are_not_finite_are_refused_by_their_name(tmp_path, weights, write, value):
    spoilt = weights["visual.proj"].half()
    spoilt[3, 5] = value
    write({**weights, "visual.proj": spoilt}, tmp_path / "mine.pt")
    refused(tmp_path / "mine.pt", r"visual\.proj hold NaN or infinity")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_quantised_are_refused(tmp_path, weights, dtype):
    quantised = {**weights, "visual.proj": weights["visual.proj"].to(dtype)}
    safetensors.torch.save_file(quantised, tmp_path / "mine.safetensors")
    refused(tmp_path / "mine.safetensors", f"visual.proj holds {dtype}")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("text_projection", ()),
        ("text_projection", (64, 16, 1)),
        ("text_projection", (0, 16)),
        ("visual.conv1.weight", (64, 3)),
        ("visual.conv1.weight", (64, 3, 0, 0)),
        ("visual.positional_embedding", ()),
        ("visual.positional_embedding", (0, 64)),
        ("visual.positional_embedding", (7, 64)),
        ("token_embedding.weight", (0, 64)),
        ("positional_embedding", (77,)),
        ("logit_scale", (3,)),
        ("visual.proj", (16, 64)),
        ("visual.transformer.resblocks.1.attn.in_proj_weight", (191, 64)),
    ],
)
def test_odd_shapes_are_refused(tmp_path, weights, name, shape):
    torch.save({**weights, name: torch.ones(shape)}, tmp_path / "mine.pt")
    refused(tmp_path / "mine.pt", "not a CLIP state dict")


def test_an_expanded_tensor_is_read_as_what_it_shows(tmp_path, weights):
    torch.save({**weights, "ln_final.weight": torch.ones(1).expand(64)}, tmp_path / "mine.pt")
    model, _ = load(tmp_path / "mine.pt", "cpu", **KNOWN)
    assert torch.equal(model.ln_final.weight, torch.ones(64))
    assert model.ln_final.weight.is_contiguous()


# Hostile files


def rebuilt(offset, size, stride):
    storage = torch.ones(64)._typed_storage()
    return Says(torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, None))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.empty(64, device="meta"), "a meta tensor, which has no values"),
        (torch.ones(1).expand(2**40), "more than 10 times its size"),
        (rebuilt(1, (64,), (1,)), "beyond its storage"),
        (rebuilt(0, (64,), (2,)), "beyond its storage"),
        (rebuilt(-1, (64,), (1,)), "not a whole number"),
        (rebuilt(63, (64,), (-1,)), "not a whole number"),
        (rebuilt(0, (-64,), (1,)), "not a whole number"),
        (rebuilt(0, (64, 1), (1,)), "other axes than strides"),
        (rebuilt(0, ("64",), (1,)), "not a whole number"),
        (rebuilt(0, (0, 2**62, 2**62), (1, 1, 1)), ""),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_that_reach_beyond_their_bytes_are_refused(
    tmp_path, weights, tensor, message, zipped
):
    content = {**weights, "ln_final.weight": tensor}
    torch.save(content, tmp_path / "mine.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "mine.pt", message)


def test_one_tensor_under_many_names_is_refused_before_it_is_copied(tmp_path, weights):
    same = {f"visual.layer{i}.{i}": weights["token_embedding.weight"] for i in range(5000)}
    torch.save({**weights, **same}, tmp_path / "mine.pt")
    refused(tmp_path / "mine.pt", "more than 10 times its size")


def shared(depth: int) -> bytes:
    """A tree of modules of which each holds the next twice: 2^depth paths."""
    data = io.BytesIO()
    data.write(b"\x80\x02")
    for level in range(depth):
        data.write(b"c__torch__\nM\n)\x81q%c}(" % level)
        if level:
            data.write(b"X\1\0\0\0ah%cX\1\0\0\0bh%c" % (level - 1, level - 1))
        data.write(b"ub")
        data.write(b"0" if level < depth - 1 else b".")
    return data.getvalue()


def test_a_tree_of_modules_that_shares_its_branches_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "mine.pt", "w") as archive:
        archive.writestr("mine/data.pkl", shared(60))
        archive.writestr("mine/constants.pkl", b"")
    assert (tmp_path / "mine.pt").stat().st_size < 5000
    refused(tmp_path / "mine.pt", "a tree of modules without end")


def test_a_module_that_tensors_share_is_read_wherever_it_is(tmp_path, weights):
    tree = Tree(weights, {})
    tree.again = tree.visual.transformer.resblocks
    save_scripted(tree, tmp_path / "mine.pt")
    names = load_state_dict(tmp_path / "mine.pt")
    assert torch.equal(
        names["again.0.ln_1.weight"], weights["visual.transformer.resblocks.0.ln_1.weight"]
    )
    refused(tmp_path / "mine.pt", "no place for again.0")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "mine.pt")
    refused(tmp_path / "mine.pt", "holds other things than tensors")


def test_a_key_that_would_end_the_process_is_refused(tmp_path, weights):
    torch.save(weights, tmp_path / "mine.pt")
    nested = b"\x80\x02})" + b"\x85" * 300_000 + b"Ns."  # hashing it takes as many calls
    with zipfile.ZipFile(tmp_path / "mine.pt", "w") as archive:
        archive.writestr("mine/data.pkl", nested)
    refused(tmp_path / "mine.pt", "a key of type tuple")


def test_tensors_that_are_packed_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "mine.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mine/data.pkl", pickle.dumps({}, 2))
    refused(tmp_path / "mine.pt", "compressed")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_too_little_memory_is_not_called_damage(tmp_path, weights, monkeypatch, error):
    torch.save(weights, tmp_path / "mine.pt")

    def none_left(*_, **__):
        raise error

    monkeypatch.setattr(torch, "empty", none_left)
    refused(tmp_path / "mine.pt", "needs more memory than there is")
