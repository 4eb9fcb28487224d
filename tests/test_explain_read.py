"""What is made of stored maps: a page, overlays, arrays, boxes and masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import explain
from dataset.reading import read_maps, read_rows, window_of
from image_utils import to_bytes
from in_browser import node, require_browser
from map_tools import boxes, masks
from picture_sets import as_archive, fill, picture, spoil
from placing import overlaid, placed

TARGETS = ["a cow", "a sheep <b>&</b>"]


@pytest.fixture(scope="module")
def explained(tmp_path_factory) -> Path:
    """A folder of maps of nine good pictures in an archive, and a folder of odd and bad ones."""
    place = tmp_path_factory.mktemp("explained")
    as_archive(fill(place / "in", 9), place / "a.tar")
    (place / "odd").mkdir()
    spoil(place / "odd")
    (place / "odd" / "long.png").unlink()
    sources = [str(place / "a.tar"), str(place / "odd")]
    options = ["--model", "ViT-emoji", "--crop", "--out", str(place / "maps"), "--workers", "1"]
    explain.main([*sources, *TARGETS, *options])
    return place / "maps"


@pytest.fixture
def maps(explained, tmp_path) -> Path:
    """A copy of it, to write into."""
    return shutil.copytree(explained, tmp_path / "maps")


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        explain.main(list(map(str, arguments)))
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_the_reader_gives_paths_scores_and_maps_of_what_has_no_error(explained):
    found = list(read_maps(explained))
    paths = [path for path, _, _ in found]
    assert paths[8:] == ["a.tar/08.png", "animated.gif", "cmyk.jpg", "pixel.png"]
    for _, scores, maps in found:
        assert scores.dtype == maps.dtype == torch.float32
        assert scores.shape == (2,)
        assert maps.shape == (2, 14, 14)


def test_overlays_are_those_of_the_maps_at_the_pictures_size(maps, capsys):
    explain.main(["export", str(maps), "--png"])
    assert "wrote 24 files into" in capsys.readouterr().out
    files = sorted((maps / "png").iterdir())
    assert files[1].name == "0000000 00 a sheep _b_&__b_.png"
    row = next(read_rows(maps))
    (_, _, raw), image = next(read_maps(maps)), picture(0)
    place = placed(raw, window_of(row), image.size)
    expected = to_bytes(overlaid(np.float32(image) / 255, place.heat[1], place))
    assert (np.asarray(Image.open(files[1])) == expected).all()


def test_arrays_are_the_stored_maps(maps):
    explain.main(["export", str(maps), "--npz", "--to", str(maps / "arrays")])
    files = sorted((maps / "arrays").iterdir())
    for file, (path, scores, raw) in zip(files, read_maps(maps), strict=True):
        found = np.load(file)
        assert (found["maps"] == raw.numpy()).all()
        assert (found["scores"] == scores.numpy()).all()
        assert found["targets"].tolist() == TARGETS
        assert str(found["path"]) == path


def test_coco_reads_the_boxes_and_masks(maps):
    explain.main(["export", str(maps), "--coco"])
    coco = COCO(str(maps / "coco" / "annotations.json"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == TARGETS
    rows = [row for row in read_rows(maps) if row["error"] is None]
    assert coco.getImgIds() == [row["id"] for row in rows]
    checked = 0
    for row, (_, _, raw) in zip(rows, read_maps(maps), strict=True):
        place = placed(raw, window_of(row), (row["width"], row["height"]))
        seen = np.s_[place.top : place.bottom, place.left : place.right]
        for target in (1, 2):
            found = coco.loadAnns(coco.getAnnIds(row["id"], target))
            one = place.maps[target - 1]
            expected = masks(one, one.shape), boxes(one, one.shape)
            for annotation, mask, box in zip(found, *expected, strict=True):
                whole = np.zeros((row["height"], row["width"]), bool)
                whole[seen] = mask
                assert (coco.annToMask(annotation).astype(bool) == whole).all()
                assert annotation["area"] == mask.sum()
                left, top, width, height = annotation["bbox"]
                assert left + width == place.left + box.right
                assert top + height == place.top + box.bottom
                checked += 1
    assert checked > 12


def test_other_pictures_in_the_place_of_those_are_refused(maps, capsys, tmp_path):
    settings = json.loads((maps / "settings.json").read_text())
    moved = fill(tmp_path / "others", 2)
    changed = settings | {"sources": [str(moved)]}
    (maps / "settings.json").write_text(json.dumps(changed))
    assert "are others than those that were explained" in refused(capsys, "export", maps, "--png")
    assert not (maps / "png").exists()
    explain.main(["export", str(maps), "--npz"])


def test_a_folder_without_maps_is_refused(tmp_path, capsys):
    for arguments in (["show", tmp_path], ["export", tmp_path, "--coco"]):
        assert "is no folder of maps: there is no settings.json" in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_page_holds_no_more_pictures_than_asked_for(maps, capsys):
    explain.main(["show", str(maps), "--most", "5"])
    assert "gallery.html, of 5 pictures" in capsys.readouterr().out


def test_the_page_shows_sorts_and_filters_in_a_browser(maps, monkeypatch):
    require_browser()
    monkeypatch.setattr("dataset.gallery.PAGE", 5)
    explain.main(["show", str(maps)])
    seen = node("gallery.mjs", maps / "gallery.html")
    good = list(read_maps(maps))
    paths = [path for path, _, _ in good]
    scores = sorted((round(one[1].item(), 2) for _, one, _ in good), reverse=True)
    assert seen["problems"] == []
    assert seen["asked"] == [f"file://{maps / 'gallery.html'}"]
    assert seen["first"] == paths[:5]
    assert seen["where"] == "page 1 of 3, 12 in all"
    assert seen["targets"] == TARGETS
    assert seen["sorted"] == pytest.approx(scores[:5], abs=0.011)
    assert seen["filtered"] == pytest.approx(scores[:3], abs=0.011)
    assert seen["named"] == ["a.tar/07.png"]
    assert sorted(path for page in seen["pages"] for path in page) == sorted(paths)
    assert len(seen["errors"]) == 4
    width, height, *plain = seen["plain"]
    assert (width, height) == (108, 144)
    drawn = np.array(seen["overlay"][2:]).reshape(height, width, 4)[..., :3] / 255.0
    plain = np.array(plain).reshape(height, width, 4)[..., :3] / 255.0
    raw = next(one for path, _, one in good if path == "a.tar/07.png")
    place = placed(raw, (0, 18, 108, 126), (width, height))
    expected = overlaid(np.float32(plain), place.heat[1], place)
    beyond = np.r_[0:16, 128:144]
    assert np.abs(drawn - plain)[beyond].max() < 0.02
    assert np.abs(drawn - plain)[20:124].mean() > 0.1
    # The canvas enlarges in its own way, and does not scale the sum to a maximum of 1.
    correlation = np.corrcoef(
        (drawn - plain)[20:124].ravel(), (expected / expected.max() - plain)[20:124].ravel()
    )[0, 1]
    assert correlation > 0.95
