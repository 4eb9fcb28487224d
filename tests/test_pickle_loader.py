"""Batches of pictures: from pickles that cannot run code, and from folders of images."""

import functools
import os
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from pickle_loader import Pickle_data_loader


class Code:
    """What a hostile file holds: unpickling it would call os.system."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def write(folder, number, content, protocol=2):
    (folder / f"batch{number}.bin").write_bytes(pickle.dumps(content, protocol))


def batch(number, size=4):
    return {"image": torch.full((size, 3, 2, 2), float(number)), "label": torch.rand(size, 9)}


def pictures(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        Image.new("RGB", (30, 20), (40 * place, 0, 0)).save(folder / name)


@pytest.fixture
def batches(tmp_path):
    for number in range(12):
        write(tmp_path, number, batch(number))
    return tmp_path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "values",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6).half().reshape(2, 3),
        torch.arange(12.0).reshape(6, 2).T[:, ::2],
        np.arange(6, dtype=np.float32).reshape(2, 3),
        [1, 2],
    ],
    ids=["tensor", "half", "view", "array", "list"],
)
def test_tensors_arrays_and_lists_are_read_whatever_wrote_them(tmp_path, protocol, values):
    write(tmp_path, 0, {"image": values}, protocol)
    read = Pickle_data_loader(tmp_path, 1).load_batch(0)["image"]
    assert torch.equal(read, torch.as_tensor(values))


def test_iterating_gives_whole_batches_until_there_are_enough_samples(batches):
    assert len(list(Pickle_data_loader(str(batches) + "/", 9))) == 3
    assert len(list(Pickle_data_loader(batches, 1000))) == 12


def test_the_order_is_that_of_the_seed(batches):
    def order(seed):
        return [b["image"][0, 0, 0, 0].item() for b in Pickle_data_loader(batches, 48, seed=seed)]

    assert order(0) == order(0) != order(1)
    assert sorted(order(1)) == list(range(12))


def test_a_sample_is_counted_through_the_batches(batches):
    sample = Pickle_data_loader(batches, 1).load_label(4 * 11 + 2, batch_size=4)
    assert sample["image"].shape == (3, 2, 2)
    assert sample["image"].unique() == 11


def test_transformations_are_applied_in_order(batches):
    def add(batch):
        return {"image": batch["image"] + 1}

    loader = Pickle_data_loader(batches, 1, [add])
    loader.add_transformation(lambda batch: {"image": batch["image"] * 10})
    assert loader.load_batch(3)["image"].unique() == 40


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_in_a_pickle_is_refused_by_name_and_not_run(tmp_path, protocol):
    trace = tmp_path / "ran"
    write(tmp_path, 0, {"image": Code(trace)}, protocol)
    with pytest.raises(ValueError, match=r"batch0\.bin.*system"):
        Pickle_data_loader(tmp_path, 1).load_batch(0)
    assert not trace.exists()


def test_code_in_the_storage_of_a_tensor_is_refused_too(tmp_path):
    trace = tmp_path / "ran"
    inner = pickle.dumps(Code(trace))

    class Tensor:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner,)

    write(tmp_path, 0, {"image": Tensor()})
    with pytest.raises(ValueError, match=r"batch0\.bin"):
        Pickle_data_loader(tmp_path, 1).load_batch(0)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "dict of tensors; it holds list"),
        ({}, "dict of tensors"),
        ({"image": "a horse"}, "must hold tensors"),
        ({"image": torch.zeros(3, 2), "label": torch.zeros(4)}, "one row a sample"),
    ],
)
def test_what_is_not_a_batch_is_refused(tmp_path, content, message):
    write(tmp_path, 0, content)
    with pytest.raises(ValueError, match=message):
        Pickle_data_loader(tmp_path, 1).load_batch(0)


def test_a_cut_off_file_is_refused_by_name(batches):
    path = batches / "batch0.bin"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"batch0\.bin cannot be read"):
        Pickle_data_loader(batches, 1).load_batch(0)


def test_missing_and_empty_folders_and_gaps_are_told_apart(tmp_path, batches):
    with pytest.raises(FileNotFoundError, match="wikiart does not exist"):
        Pickle_data_loader(tmp_path / "wikiart", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither"):
        Pickle_data_loader(tmp_path / "empty", 1)
    (batches / "batch5.bin").unlink()
    with pytest.raises(FileNotFoundError, match="without gaps"):
        Pickle_data_loader(batches, 1)


def test_a_batch_that_is_not_there_is_refused(batches):
    with pytest.raises(IndexError, match="no batch 12: there are 12"):
        Pickle_data_loader(batches, 1).load_batch(12)


def test_a_folder_of_images_comes_in_batches_of_40(tmp_path):
    pictures(tmp_path, [f"{number}.png" for number in range(45)])
    (tmp_path / "README.md").write_text("not an image")
    shapes = [tuple(batch["image"].shape) for batch in Pickle_data_loader(tmp_path, 100)]
    assert shapes == [(40, 3, 224, 224), (5, 3, 224, 224)]


def test_folders_by_class_give_labels(tmp_path):
    pictures(tmp_path / "sad", ["a.png"])
    pictures(tmp_path / "happy", ["a.jpg", "b.jpg"])
    loader = Pickle_data_loader(tmp_path, 100, preprocess=lambda image: torch.tensor(image.size))
    (batch,) = loader
    assert loader.classes == ["happy", "sad"]
    assert batch["label"].sum(0).tolist() == [2, 1]


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(ValueError, match=r"broken\.png is not an image"):
        list(Pickle_data_loader(tmp_path, 1))


# Damaged and hostile files


class Says:
    """Pickled as a call: of a function, with arguments, then with a state."""

    def __init__(self, function, *arguments, state=None):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


def array_of(shape, data=b"\0" * 16, dtype="f4"):
    return Says(
        np._core.multiarray._reconstruct,
        np.ndarray,
        (0,),
        b"b",
        state=(1, shape, np.dtype(dtype), False, data),
    )


def tensor_of(offset, size, stride):
    storage = torch.arange(4.0)._typed_storage()
    return Says(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, None)


HOSTILE = {
    "an array at a negative offset": Says(np.ndarray, (4,), "u1", b"A" * 8, -4000),
    "a forged dtype": Says(
        np._core.multiarray.scalar,
        Says(np.dtype, "V8", state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)),
        b"A" * 8,
    ),
    "a dtype of objects": Says(np._core.multiarray.scalar, np.dtype("O"), b"A" * 8),
    "an array longer than its bytes": array_of((5,)),
    "an array of negative length": array_of((-4,)),
    "an array without end": array_of((2**40, 2**40)),
    "a tensor at a negative offset": tensor_of(-1, (2,), (1,)),
    "a tensor behind its storage": tensor_of(3, (2,), (1,)),
    "a tensor with negative strides": tensor_of(3, (2,), (-1,)),
    "a tensor with wide strides": tensor_of(0, (2,), (4,)),
    "a tensor without end": tensor_of(0, (2**40,), (0,)),
    "a state for a function": Says(torch.storage._load_from_bytes, b"", state={"a": 1}),
    "a dtype without end": Says(np.dtype, functools.reduce(lambda a, _: [a, a], range(60), [])),
    "an array of many axes": array_of((2**60,) * 10_000),
    "a state for a type": Says(np.dtype, "f4", state=(3, "no", None, None, None, -1, -1, 0)),
}


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_would_reach_foreign_memory_is_refused_by_name(tmp_path, content, protocol):
    write(tmp_path, 0, {"image": content}, protocol)
    with pytest.raises(ValueError, match=r"batch0\.bin"):
        Pickle_data_loader(tmp_path, 1).load_batch(0)


TUPLES = b")" + b"\x85" * 200_000  # one in the other; hashing them takes as many calls
PROGRAMS = {
    "a memo of 64 GB": b"}r\xf0\xff\xff\xff.",
    "bytes without end": b"\x8e\0\0\0\0\0\1\0\0aa.",
    "changeable bytes without end": b"\x96\0\0\0\0\4\0\0\0aa.",
    "a frame without end": b"\x95\0\0\0\0\0\0\4\0}.",
    "a number without end": b"\x8b\xff\xff\xff\x7f1.",
    "a deep key": b"}" + TUPLES + b"Ns.",
    "a deep key at once": b"(" + TUPLES + b"Nd.",
    "a deep member of a set": b"\x8f(" + TUPLES + b"\x90.",
    "a deep list": b"}X\5\0\0\0image" + b"]" * 5000 + b"a" * 4999 + b"s.",
    "itself": b"}q\0X\5\0\0\0imageh\0s.",
    "a list of itself": b"}X\5\0\0\0image]q\0h\0as.",
    "lists of the same lists": b"}X\5\0\0\0image"
    + b"(" * 40
    + b"](K\1K\1e"
    + b"".join(b"q%c0](h%ch%ce" % (i, i, i) for i in range(40))
    + b"s.",
    "a registered extension": b"\x82\1.",
    "an object of old": b"(ios\nsystem\n.",
    "a state for a name": b"ccollections\nOrderedDict\n}b.",
    "an attribute of a name": b"ctorch\nFloatStorage\nN}X\1\0\0\0aNs\x86b.",
    "a call of a text": b"X\1\0\0\0a)R.",
    "a new text": b"X\1\0\0\0a)\x81.",
    "no stop": b"}",
    "nothing": b"",
    "no text": b"X\1\0\0\0\xff.",
    "an empty stack": b"0.",
    "an unknown operation": b"\xff.",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_would_take_the_process_down_are_refused_by_name(tmp_path, program):
    (tmp_path / "batch0.bin").write_bytes(b"\x80\5" + program)
    with pytest.raises(ValueError, match=r"batch0\.bin") as error:
        Pickle_data_loader(tmp_path, 1).load_batch(0)
    assert len(str(error.value)) < 500


def test_nothing_of_torch_or_numpy_is_changed_by_a_file(tmp_path):
    names = "torch._utils\n_rebuild_tensor_v2", "torch.storage\n_load_from_bytes", "numpy\ndtype"
    for name in names:
        program = b"\x80\2c%b\n}X\5\0\0\0traceK\1sb." % name.encode()
        (tmp_path / "batch0.bin").write_bytes(program)
        with pytest.raises(ValueError, match="a state for what has none"):
            Pickle_data_loader(tmp_path, 1).load_batch(0)
    for function in (torch._utils._rebuild_tensor_v2, torch.storage._load_from_bytes, np.dtype):
        assert not hasattr(function, "trace")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_damaged_files_are_read_or_refused_by_name(tmp_path, protocol):
    how = random.Random(protocol)
    arrays = {"image": np.ones((4, 3, 5), "f4"), "label": torch.ones(4, 2), "year": [1, 2, 3, 4]}
    content = pickle.dumps(arrays, protocol)
    errors = []
    for _ in range(100):
        data = bytearray(content)
        place = how.randrange(len(data))
        match how.randrange(3):
            case 0:
                del data[place:]
            case 1:
                data[place] ^= 1 << how.randrange(8)
            case 2:
                data[place : place + 3] = how.randbytes(how.randrange(6))
        (tmp_path / "batch0.bin").write_bytes(data)
        try:
            Pickle_data_loader(tmp_path, 1).load_batch(0)
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 40
    assert all("batch0.bin" in error for error in errors)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f8").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array([[True, False], [False, True]]),
        np.zeros((2, 0), np.float32),
        [np.float64(0.5), np.float64(2)],
        [np.arange(3), np.arange(3)],
    ],
    ids=["big-endian", "columns first", "transposed", "bool", "empty", "scalars", "list of arrays"],
)
def test_arrays_of_all_orders_and_types_are_read(tmp_path, protocol, array):
    write(tmp_path, 0, {"image": array}, protocol)
    read = Pickle_data_loader(tmp_path, 1).load_batch(0)["image"]
    expected = np.asarray(array)
    assert read.shape == expected.shape
    assert read.dtype == torch.as_tensor(expected.astype(expected.dtype.newbyteorder("="))).dtype
    assert read.tolist() == expected.tolist()
