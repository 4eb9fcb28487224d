"""The benchmarks run, and what they race computes the same."""

import csv
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import anybody
import folder
import growth
import plot
import rivals
import table
import throughput
from worker import Worker

from conftest import noise
from dataset.reading import shards
from saliency import normalise_maps, relevance_maps
from small_clip import small_resnet


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", rivals.TORCHCAM)
def test_torchcam_computes_the_same_maps(method):
    visual = small_resnet(vocab_size=100).double().visual.eval()
    images, targets = noise(2, 3, 64, 64), noise(3, visual.output_dim)
    theirs = normalise_maps(rivals.torchcam(visual, images, targets, method).double())
    ours = normalise_maps(relevance_maps(visual, images, targets, method))
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


def test_captum_computes_the_same_maps():
    visual = small_resnet(vocab_size=100).double().visual.eval()
    images, targets = noise(2, 3, 64, 64), noise(3, visual.output_dim)
    theirs = normalise_maps(rivals.captum(visual, images, targets, "GradCAM"))
    ours = normalise_maps(relevance_maps(visual, images, targets, "GradCAM"))
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


def test_a_worker_runs_grad_cam_and_tells_how_much_memory_it_took():
    with Worker("grad_cam_worker.py", json.dumps([8, 64, [1, 1, 1, 1], 8]), "1", "8") as worker:
        first = worker.run("GradCAM", 1)
        assert 0 <= first <= worker.run("LayerCAM", 64)
        worker.run("AblationCAM", 1)  # of one channel in eight
        with pytest.raises(SystemExit, match="grad_cam_worker"):
            worker.run("NoSuchCAM", 1)


def test_what_is_timed_in_part_is_scaled():
    calls = dict.fromkeys(("forward", "ours", "theirs"), lambda: sum(range(10_000)))
    ours, theirs = rivals.race(("RN50", 1, 9), calls, {"theirs": 1000}, 0)
    assert ours.speed_up == 1
    assert theirs.speed_up > 100
    assert (ours.scaled, theirs.scaled) == (False, True)


@pytest.mark.parametrize("name", plot.DRAWN)
def test_figures_are_drawn_from_the_tables(name, tmp_path):
    plot.DRAWN[name](plot.read(name)).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_an_interruption_leaves_the_old_table_and_the_old_figure(tmp_path, monkeypatch):
    path = tmp_path / "speed.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="not in fieldnames"):  # of the second row
        table.save([{"a": 1}, {"a": 1, "b": 2}], path)
    assert path.read_text() == "old"

    figure = tmp_path / "speed.png"
    figure.write_text("old")
    monkeypatch.setattr(plot, "FOLDER", tmp_path)
    monkeypatch.setattr(plot, "read", lambda name: [])
    monkeypatch.setattr(plot, "DRAWN", {"speed": lambda rows: Broken()})
    with pytest.raises(KeyboardInterrupt):
        plot.main()
    assert figure.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [path, figure]


class Broken:
    """A figure that is interrupted while it is written."""

    def savefig(self, path, **_):
        path.write_text("half")
        raise KeyboardInterrupt


def test_growth_compares_exponents(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "WIDTH", 32)
    monkeypatch.setattr(growth, "HEADS", 2)
    growth.main(["--seconds", "0", "--most", "14", "--output", str(tmp_path / "growth.csv")])
    found = rows(tmp_path / "growth.csv")
    assert {row["grows"] for row in found} == {"tokens", "blocks", "targets", "images"}
    assert "expected" in capsys.readouterr().out


def test_the_expected_growth_is_that_of_the_arithmetic():
    def expected(method, name, values):
        counted = [growth.multiplications(method, **(growth.USUAL | {name: v})) for v in values]
        return growth.slope(list(values), counted)

    assert expected("last grad", "images", (1, 2, 4, 8)) == pytest.approx(1)
    assert expected("last grad", "targets", (1, 2, 4)) < 0.01
    assert 0.9 < expected("last grad", "targets", (10**5, 10**6)) < 1
    assert 0.9 < expected("all grads", "targets", (8, 16, 32, 64)) < 1
    assert 2 < expected("last grad", "side", (64, 128, 256, 512)) < 4


def test_throughput_measures_each_part_of_a_folder_end_to_end(tmp_path):
    options = ["--images", "3", "--models", "RN-emoji", "--rounds", "1"]
    throughput.main([*options, "--output", str(tmp_path / "rate.csv")])
    found = rows(tmp_path / "rate.csv")
    parts = ["forward", "explained, stored", "decoded, forward", "end to end", "as PNG"]
    assert [row["what"] for row in found] == parts
    assert all(float(row["images a second"]) > 0 for row in found)
    assert all(0 < int(row["bytes an image"]) < 20_000 for row in found)


def test_a_folder_is_explained_by_processes_whose_memory_is_told(tmp_path):
    folder.main(["--images", "4", "--ways", "explain.py", "--output", str(tmp_path / "folder.csv")])
    found = rows(tmp_path / "folder.csv")
    assert {row["process"] for row in found} == {"command", "decoder"}
    assert all(100 < int(row["peak MiB"]) < 1536 for row in found)
    assert all(float(row["images a second"]) > 0 for row in found)


def test_a_rate_is_counted_from_when_every_process_has_written(tmp_path):
    for number, (count, second) in enumerate([(4, 50), (4, 51), (3, 53), (2, 56)]):
        path = tmp_path / f"shard-{number}.parquet"
        pq.write_table(pa.table({"error": [None] * count}, pa.schema({"error": pa.string()})), path)
        os.utime(path, (second, second))
    assert folder.rate(shards(tmp_path), 1) == (4 + 3 + 2) / 6
    assert folder.rate(shards(tmp_path), 2) == (3 + 2) / 5


def test_models_that_are_not_ours_are_timed_in_forwards_of_their_own(tmp_path, monkeypatch):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 8, 8),
        torch.nn.Flatten(2),
        Tokens(),
        torch.nn.Sequential(
            *[torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)]
        ),
    )
    encoder = anybody.Encoder(network, lambda images: network(images).mean(1), size=(32, 32))
    monkeypatch.setitem(anybody.MODELS, "small", lambda: encoder)
    place = tmp_path / "anybody.csv"
    arguments = ["--models", "small", "--batch", "2", "--seconds", "0", "--output", str(place)]
    anybody.main(arguments)
    found = rows(place)
    assert [row["targets"] for row in found] == ["1", "9", "100"]
    assert {row["pooling"] for row in found} == {"average"}
    assert all(float(row["forwards"]) > 0 for row in found)


class Tokens(torch.nn.Module):
    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        return cells.mT
