"""Masks: what shows an object, and whose picture's it is; else they are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from clip_ import make_preprocess
from evaluation.folders import MaskedFolder
from image_utils import read_mask

OBJECT = np.zeros((4, 6), bool)
OBJECT[1:3, 2:4] = True
ORIENTATION, TURNED = 0x0112, 6


def levels(value, kind=np.uint8):
    return Image.fromarray((OBJECT * value).astype(kind))


def palette(indices, *colours):
    image = Image.fromarray(np.uint8(indices), mode="P")
    image.putpalette([level for colour in colours for level in colour])
    return image


def rgba(colour, alpha):
    pixels = np.empty((4, 6, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, alpha
    return Image.fromarray(pixels)


SOFT = OBJECT * 155 + np.arange(24).reshape(4, 6) * 4
COLOURS = np.random.default_rng(0).integers(0, 255, (4, 6, 3))
MASKS = {
    "0 and 255": levels(255),
    "0 and 1": levels(1),
    "two levels": Image.fromarray(OBJECT),
    "16 bits": levels(65535, np.uint16),
    "0 and 1 in 16 bits": levels(1, np.uint16),
    "grey, up to white": Image.fromarray(np.uint8(SOFT)),
    "a palette's dark red": palette(OBJECT, (0, 0, 0), (128, 0, 0)),
    "red": Image.fromarray(np.uint8(OBJECT[..., None] * [255, 0, 0])),
    "black and white, all opaque": rgba(OBJECT[..., None] * 255, 255),
    "white where opaque": rgba(255, OBJECT * 255),
    "black where opaque": rgba(0, OBJECT * 255),
    "three times as large": levels(255).resize((18, 12), Image.Resampling.NEAREST),
}
NO_MASKS = {
    "black": (levels(0), "shows no object"),
    "transparent": (rgba(255, 0), "shows no object"),
    "three labels": (Image.fromarray(np.uint8(OBJECT + np.eye(4, 6))), "no mask of one object"),
    "three labels of a palette": (
        palette(OBJECT + np.eye(4, 6), (0, 0, 0), (128, 0, 0), (255, 255, 255)),
        "no mask of one object",
    ),
    "a photograph": (Image.fromarray(np.uint8(COLOURS)), "no mask of one object"),
    "a photograph cut out": (rgba(COLOURS, OBJECT * 255), "no mask of one object"),
    "another proportion": (levels(255).resize((6, 6)), "6x6 pixels for a picture of 6x4"),
    "turned": (levels(255).transpose(Image.Transpose.ROTATE_90), "4x6 .*same proportion"),
}


@pytest.mark.parametrize("case", MASKS)
def test_an_object_is_read_from_whatever_shows_it(case, tmp_path):
    MASKS[case].save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (4, 6)).equal(torch.from_numpy(OBJECT))


@pytest.mark.parametrize("case", NO_MASKS)
def test_what_is_no_mask_of_the_picture_is_refused_by_name(case, tmp_path):
    image, message = NO_MASKS[case]
    image.save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=rf"mask\.png is .*{message}"):
        read_mask(tmp_path / "mask.png", (4, 6))


def test_a_mask_is_cut_as_its_picture_is(tmp_path):
    image = levels(255).resize((60, 40), Image.Resampling.NEAREST)
    image.save(tmp_path / "mask.png")
    seen = make_preprocess(20)(image)[0] > 0
    assert read_mask(tmp_path / "mask.png", (20, 20), picture=(40, 60)).equal(seen)


def test_the_mask_of_an_extremely_long_picture_is_cut_before_it_is_enlarged(tmp_path):
    mask = np.zeros((4, 20_000), np.uint8)
    mask[:, 10_000:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    seen = read_mask(tmp_path / "mask.png", (224, 224), picture=(4, 20_000))
    assert not seen[:, :112].any()
    assert seen[:, 112:].all()


def test_a_mask_with_damaged_exif_is_upright(tmp_path):
    levels(255).save(tmp_path / "mask.png", exif=b"Exif\0\0garbage")
    assert read_mask(tmp_path / "mask.png", (4, 6)).equal(torch.from_numpy(OBJECT))


# Folders


@pytest.fixture
def folder(tmp_path):
    add(tmp_path, "a.png", {"horse": (0.3, 0.6)})
    return tmp_path


def add(folder, name, objects, size=(60, 40), mask_size=None, **more):
    """A picture with masks of objects that reach from one share of its width to another."""
    Image.new("RGB", size, "white").save(folder / name, **more)
    (folder / "masks" / name[:-4]).mkdir(parents=True, exist_ok=True)
    for label, (left, right) in objects.items():
        width, height = mask_size or size
        mask = np.zeros((height, width), np.uint8)
        mask[:, round(left * width) : round(right * width)] = 255
        Image.fromarray(mask).save(folder / "masks" / name[:-4] / f"{label}.png")


def masked(folder, size=20):
    return MaskedFolder(folder, make_preprocess(size), size)


def test_masks_lie_where_the_model_sees_the_object(folder):
    (batch,) = masked(folder)
    # 60x40 becomes 30x20, of which the middle 20 columns are seen: 9 to 18 are 4 to 13.
    columns = batch.masks[0, 0].any(0).nonzero().flatten().tolist()
    assert columns == list(range(4, 13))


def test_a_smaller_mask_of_the_same_proportion_lies_there_too(folder):
    add(folder, "b.png", {"horse": (0.3, 0.6)}, mask_size=(30, 20))
    one, other = (batch.masks for batch in masked(folder))
    assert one.equal(other)


def test_a_mask_of_another_proportion_is_refused_before_any_is_measured(folder):
    add(folder, "b.png", {"horse": (0.3, 0.6)}, mask_size=(40, 60))
    with pytest.raises(ValueError, match=r"b.horse\.png is a mask of 40x60 .* picture of 60x40"):
        masked(folder)


def test_the_mask_of_a_turned_picture_is_that_of_the_picture_seen_upright(folder):
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    add(folder, "b.jpg", {"horse": (0.3, 0.6)}, mask_size=(40, 60), exif=exif)
    assert len(list(masked(folder))) == 2
    add(folder, "b.jpg", {"horse": (0.3, 0.6)}, exif=exif)
    with pytest.raises(ValueError, match=r"horse\.png is a mask of 60x40 .* picture of 40x60"):
        masked(folder)


def test_an_object_outside_of_what_the_model_sees_is_left_out_and_named(folder):
    add(folder, "b.png", {"cow": (0, 0.1), "horse": (0.4, 0.7)})
    add(folder, "c.png", {"sheep": (0.95, 1)})
    found = masked(folder)
    assert [path.name for path in found.outside] == ["cow.png", "sheep.png"]
    assert found.prompts == ["a horse"]
    assert len(found) == len(list(found)) == 2


def test_a_folder_of_which_the_model_sees_no_object_is_refused(tmp_path):
    add(tmp_path, "a.png", {"cow": (0, 0.1)})
    with pytest.raises(ValueError, match="outside of what the model sees"):
        masked(tmp_path)


def test_two_files_of_one_name_are_refused(folder):
    add(folder, "a.jpg", {})
    with pytest.raises(ValueError, match=r"a\.jpg and a\.png have one name"):
        masked(folder)
    (folder / "a.jpg").rename(folder / "masks" / "a" / "horse.jpg")
    with pytest.raises(ValueError, match=r"horse\.jpg and horse\.png have one name"):
        masked(folder)


def test_the_digest_is_that_of_names_and_contents(folder):
    first = masked(folder).digest()
    assert masked(folder).digest() == first
    add(folder, "a.png", {"horse": (0.3, 0.7)})
    other_mask = masked(folder).digest()
    (folder / "masks" / "a" / "horse.png").rename(folder / "masks" / "a" / "cow.png")
    other_name = masked(folder).digest()
    Image.new("RGB", (60, 40), "red").save(folder / "a.png")
    other_picture = masked(folder).digest()
    add(folder, "b.png", {"horse": (0.3, 0.7)})
    one_more = masked(folder).digest()
    assert len({first, other_mask, other_name, other_picture, one_more}) == 5
