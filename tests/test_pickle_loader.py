"""Batches of pictures: from pickles that cannot run code, and from folders of images."""

import os
import pickle

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
