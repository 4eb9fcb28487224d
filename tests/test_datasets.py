"""Data sets as they are laid out, tiny ones: which pixels are of which class, or unknown."""

import csv
import json
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clip_ import make_preprocess
from evaluation import __main__ as evaluate
from evaluation.datasets import FORMATS, VOC_CLASSES, DataSet
from evaluation.localisation import MEASURES, all_measures, where_it_lies, without
from preprocessing import OPENAI, Preprocessing
from small_clip import small_vit

SIZE = (60, 40)  # of pictures: 30x20 when resized, of which the middle 20 columns are seen
HORSE, DOG = VOC_CLASSES.index("horse"), VOC_CLASSES.index("dog")
ORIENTATION, TURNED = 0x0112, 6


def picture(path, size=SIZE, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path, **more)


def columns(**ranges):
    """Numbers, [40, 60], that reach over all rows, from one column to another: zero elsewhere."""
    found = np.zeros(SIZE[::-1], int)
    for name, (left, right) in ranges.items():
        found[:, left:right] = int(name[1:])
    return found


def read(folder, form, split=None, size=20, most=100, preprocessing=OPENAI):
    reader, usual = FORMATS[form]
    names, photographs = reader(folder, split or usual)
    preprocess = make_preprocess(size, preprocessing)
    return DataSet(names, photographs, most, preprocess, size, preprocessing=preprocessing)


def seen(data):
    """Of each class, by its prompt, the columns that it covers and those that are unknown."""
    (batch,) = data
    assert batch.images.shape == (1, 3, 20, 20)
    regions = zip(batch.concepts[0].tolist(), batch.masks[0], batch.unknown[0], strict=True)
    return {data.prompts[one]: (spans(mask), spans(void)) for one, mask, void in regions}


def spans(region):
    assert (region == region[:1]).all()
    return region[0].nonzero().flatten().tolist()


# Pascal VOC


def voc(tmp_path, numbers, name="2008_000001", year="VOC2012", **more):
    folder = tmp_path / "VOCdevkit" / year
    picture(folder / "JPEGImages" / f"{name}.jpg", **more)
    mask = Image.fromarray(np.uint8(numbers), mode="P")
    mask.putpalette([0, 0, 0, 128, 0, 0, *[9] * 3 * 254])  # colours say nothing, indices all
    (folder / "SegmentationClass").mkdir(exist_ok=True)
    mask.save(folder / "SegmentationClass" / f"{name}.png")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / "val.txt").open("a") as file:
        file.write(f"{name}\n")
    return folder


def test_voc_shows_classes_by_number_and_borders_are_unknown(tmp_path):
    folder = voc(tmp_path, columns(_13=(18, 36), _255=(36, 40), _12=(42, 50)))
    data = read(folder, "voc")
    assert len(data.prompts) == 20
    assert data.prompts[10] == "a photo of a dining table"
    # Column x of 60 is x / 2 - 5 of what is seen.
    assert seen(data) == {
        "a photo of a horse": (list(range(4, 13)), [13, 14]),
        "a photo of a dog": (list(range(16, 20)), [13, 14]),
    }


def test_an_object_outside_of_the_square_is_left_out_and_told(tmp_path):
    data = read(voc(tmp_path, columns(_13=(18, 36), _12=(0, 8))), "voc")
    assert list(seen(data)) == ["a photo of a horse"]
    assert data.left_out() == [
        "1 (2008_000001.jpg/dog): outside of the middle square that the model sees"
    ]


def test_a_data_set_of_which_nothing_is_seen_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no object of the 1 pictures"):
        read(voc(tmp_path, columns(_12=(0, 8))), "voc")


def test_masks_go_through_the_models_own_geometry(tmp_path):
    folder = voc(tmp_path, columns(_13=(18, 36)))
    data = read(folder, "voc", preprocessing=Preprocessing(resize_mode="squash"))
    assert seen(data) == {"a photo of a horse": (list(range(6, 12)), [])}


def test_labels_are_of_pixels_as_stored_and_turned_with_the_picture(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    (batch,) = read(voc(tmp_path, columns(_13=(18, 36)), exif=exif), "voc")
    mask = batch.masks[0, 0]
    assert mask[:, 0].nonzero().flatten().tolist() == list(range(4, 13))
    assert (mask == mask[:, :1]).all()


def test_a_mask_of_another_size_is_refused(tmp_path):
    folder = voc(tmp_path, columns(_13=(18, 36)), size=(40, 60))
    with pytest.raises(ValueError, match="40x60 pixels, and its labels 60x40"):
        read(folder, "voc")


def test_masks_in_colours_or_with_other_numbers_are_refused(tmp_path):
    folder = voc(tmp_path, columns(_21=(18, 36)))
    with pytest.raises(ValueError, match="0 to 20 and 255"):
        read(folder, "voc")
    path = folder / "SegmentationClass" / "2008_000001.png"
    Image.new("RGB", SIZE).save(path)
    with pytest.raises(ValueError, match="it is of mode RGB"):
        read(folder, "voc")


def test_so_many_are_drawn_and_the_same_every_time(tmp_path):
    for number in range(6):
        folder = voc(tmp_path, columns(_13=(18, 30 + number)), name=f"2008_00000{number}")
    few, again, all_ = (read(folder, "voc", most=most) for most in (3, 3, 100))
    paths = [[photograph.path.name for photograph, _ in one.classes] for one in (few, again, all_)]
    assert len(all_) == 6
    assert paths[0] == paths[1] == paths[2][:3] != sorted(paths[2])[:3]
    assert few.digest() == again.digest() != all_.digest()


def test_the_digest_is_that_of_pictures_and_labels(tmp_path):
    folder = voc(tmp_path, columns(_13=(18, 36)))
    digests = {read(folder, "voc").digest()}
    Image.new("RGB", SIZE, "red").save(folder / "JPEGImages" / "2008_000001.jpg")
    digests.add(read(folder, "voc").digest())
    for numbers in (columns(_12=(18, 36)), columns(_12=(18, 36), _255=(40, 50))):
        voc(tmp_path / "other", numbers)
        mask = tmp_path / "other/VOCdevkit/VOC2012/SegmentationClass/2008_000001.png"
        mask.replace(folder / "SegmentationClass" / "2008_000001.png")
        digests.add(read(folder, "voc").digest())
    assert len(digests) == 4


def boxes(tmp_path, *objects):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    picture(folder / "JPEGImages" / "000001.jpg")
    things = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin>"
        f"<ymin>1</ymin><xmax>{right}</xmax><ymax>40</ymax></bndbox></object>"
        for name, difficult, left, right in objects
    )
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "000001.xml").write_text(
        f"<annotation><size><width>60</width><height>40</height></size>{things}</annotation>"
    )
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000001\n")
    return folder


def test_boxes_of_voc_count_from_one_and_difficult_objects_are_unknown(tmp_path):
    folder = boxes(tmp_path, ("horse", 0, 19, 36), ("horse", 1, 31, 42), ("pottedplant", 1, 1, 60))
    data = read(folder, "voc-boxes", "test")
    assert seen(data) == {"a photo of a horse": (list(range(4, 13)), [13, 14, 15])}


def test_boxes_of_no_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'unicorn', which is no class"):
        read(boxes(tmp_path, ("unicorn", 0, 19, 36)), "voc-boxes", "test")


# COCO


def coco(tmp_path, *annotations, split="val2017"):
    picture(tmp_path / split / "000000000001.jpg")
    picture(tmp_path / split / "000000000002.jpg")  # of nothing
    content = {
        "images": [
            {"id": one, "file_name": f"00000000000{one}.jpg", "width": 60, "height": 40}
            for one in (1, 2)
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 19, "name": "horse"}],
        "annotations": [
            {"id": number, "image_id": 1, **one} for number, one in enumerate(annotations, 1)
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path


def polygon(category, left, right):
    return {
        "category_id": category,
        "iscrowd": 0,
        "segmentation": [[left, 0, right, 0, right, 40, left, 40]],
    }


def crowd(category, left, right):  # runs down the columns, of zeros first
    runs = [left * 40, (right - left) * 40, (60 - right) * 40]
    return {
        "category_id": category,
        "iscrowd": 1,
        "segmentation": {"counts": runs, "size": [40, 60]},
    }


def test_coco_unites_the_instances_of_a_class_and_its_crowds_are_unknown_for_it_alone(tmp_path):
    folder = coco(
        tmp_path, polygon(19, 18, 24), polygon(19, 30, 36), polygon(90, 40, 44), crowd(19, 34, 42)
    )
    data = read(folder, "coco")
    assert data.prompts == ["a photo of a horse", "a photo of a toothbrush"]
    assert len(data) == 1
    assert seen(data) == {
        "a photo of a horse": ([4, 5, 6, 10, 11, 12], [13, 14, 15]),
        "a photo of a toothbrush": ([15, 16], []),
    }


def test_a_class_that_is_only_a_crowd_is_not_asked_for(tmp_path):
    data = read(coco(tmp_path, polygon(90, 18, 36), crowd(19, 36, 42)), "coco")
    assert list(seen(data)) == ["a photo of a toothbrush"]


def test_coco_says_what_reads_it(tmp_path, monkeypatch):
    folder = coco(tmp_path, polygon(19, 18, 36))
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ValueError, match="pip install pycocotools"):
        read(folder, "coco")


def test_annotations_of_something_else_are_refused(tmp_path):
    folder = coco(tmp_path, polygon(19, 18, 36))
    for text in ("[1, 2]", "no JSON", "{}"):
        (folder / "annotations" / "instances_val2017.json").write_text(text)
        with pytest.raises(
            ValueError, match=r"is not an annotation file of COCO|lists no pictures"
        ):
            read(folder, "coco")


# ImageNet-S


def imagenet_s(tmp_path, numbers, count=50, number=3):
    from timm.data import ImageNetInfo

    folder = tmp_path / f"ImageNetS{count}"
    ids = ImageNetInfo("imagenet-1k").label_names()[100 : 100 + count]
    for one in ids:
        (folder / "validation" / one).mkdir(parents=True)
    shown = ids[number - 1]
    picture(folder / "validation" / shown / "ILSVRC2012_val_00000001.JPEG")
    path = folder / "validation-segmentation" / shown / "ILSVRC2012_val_00000001.png"
    path.parent.mkdir(parents=True)
    colours = np.stack([numbers % 256, numbers // 256, 0 * numbers], -1)
    Image.fromarray(np.uint8(colours)).save(path)
    return folder


def test_imagenet_s_has_numbers_in_red_and_green_and_a_part_that_is_unknown(tmp_path):
    data = read(imagenet_s(tmp_path, columns(_3=(18, 36), _1000=(36, 42))), "imagenet-s")
    # The third of the classes from ImageNet's 101st on.
    assert len(data.prompts) == 50
    assert data.prompts[2] == "a photo of a echidna"
    assert seen(data) == {data.prompts[2]: (list(range(4, 13)), [13, 14, 15])}


def test_numbers_above_255_are_read(tmp_path):
    data = read(imagenet_s(tmp_path, columns(_259=(18, 36)), 300, 259), "imagenet-s")
    (batch,) = data
    assert batch.concepts.tolist() == [[258]]


def test_a_part_of_imagenet_s_whose_numbers_would_shift_is_refused(tmp_path):
    folder = imagenet_s(tmp_path, columns(_3=(18, 36)))
    next(path for path in (folder / "validation").iterdir() if not any(path.iterdir())).rmdir()
    with pytest.raises(FileNotFoundError, match=r"all 50, 300 or 919 classes.*it has 49"):
        read(folder, "imagenet-s")


def test_numbers_of_no_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match="numbers of no class"):
        read(imagenet_s(tmp_path, columns(_51=(18, 36))), "imagenet-s")


# What is not there


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            "voc",
            r"VOCdevkit/VOC2012.*SegmentationClass/\*\.png and ImageSets/Segmentation/val\.txt",
        ),
        ("voc-boxes", r"Annotations/\*\.xml and ImageSets/Main/val\.txt"),
        ("coco", r"val2017/\*\.jpg and annotations/instances_val2017\.json"),
        ("imagenet-s", r"validation/<WordNet id>/\*\.JPEG and validation-segmentation"),
    ],
)
def test_a_folder_laid_out_otherwise_is_told_what_was_expected(tmp_path, form, message):
    with pytest.raises(FileNotFoundError, match=f"is not laid out as .*{message}"):
        read(tmp_path, form)


def test_a_file_that_is_listed_and_not_there_is_named(tmp_path):
    folder = voc(tmp_path, columns(_13=(18, 36)))
    (folder / "SegmentationClass" / "2008_000001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists a file .*2008_000001\.png"):
        read(folder, "voc")


# Measures without what is unknown


def test_measures_without_pixels_are_those_of_the_other_pixels():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(20, 6, 8, generator=generator)
    unknown = torch.rand(6, 8, generator=generator) < 0.3
    masks = (torch.rand(6, 8, generator=generator) < 0.3) & ~unknown
    found = all_measures(without(maps, unknown.expand_as(maps)), masks.expand_as(maps))
    others = all_measures(maps[:, ~unknown][:, None], masks[~unknown][None].expand(20, 1, -1))
    assert set(found) == set(MEASURES)
    for name, values in found.items():
        torch.testing.assert_close(values, others[name])


def test_what_is_unknown_holds_no_relevance():
    maps, masks = torch.ones(1, 2, 2), torch.tensor([[[True, False], [False, False]]])
    unknown = torch.tensor([[[False, True], [True, False]]])
    found = where_it_lies(without(maps, unknown), masks)
    assert {name: share.item() for name, share in found.items()} == {
        "the object": 0.5, "other objects": 0, "the background": 0.5,
    }  # fmt: skip


# The command


def test_a_data_set_is_measured(tmp_path):
    model = tmp_path / "vit.safetensors"
    metadata = {"activation": "quickgelu", "heads": "2, 2"}
    save_file(small_vit().state_dict(), model, metadata=metadata)
    for number, name in enumerate(("2008_000001", "2008_000002")):
        numbers = columns(_13=(18, 36), _255=(36, 40), **{f"_{12 - number}": (42, 50)})
        folder = voc(tmp_path, numbers, name)
    arguments = [
        "--models", str(model), "--images", str(folder), "--format", "voc", "--methods", "gradcam",
        "centre", "--faithfulness", "1", "--sanity", "1", "--output", str(tmp_path / "out"),
        "--runs", str(tmp_path / "runs"),
    ]  # fmt: skip
    with patch.object(evaluate, "draw_all"):
        evaluate.main(arguments)
    with (tmp_path / "out" / "localisation.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["objects"] == "all"]
    assert {(row["method"], row["pictures"]) for row in rows} == {("gradcam", "2"), ("centre", "2")}
    # Of 32 columns 3 are unknown; horses cover 15 of the others, dogs and dining tables 6.
    assert {row["chance"] for row in rows} == {f"{10.5 / 29:.4f}"}


@pytest.mark.parametrize("options", [["--format", "voc"], ["--images", "x", "--split", "val"]])
def test_options_that_mean_nothing_are_refused(options, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(options)
    assert "--split is of a --format, and a --format is of --images" in capsys.readouterr().err
