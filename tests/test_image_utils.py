"""Pictures have true colours: a red photograph stays red under any heat map."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from clip_ import make_preprocess, to_rgb
from image_utils import (
    as_picture,
    heat,
    image_files,
    normalise_pixels,
    open_image,
    show_cam_on_image,
    show_overlapped_cam,
    to_bytes,
    true_colours,
)

RED, GREEN, BLUE = np.eye(3, dtype=np.float32)
COLD, HOT = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)


def plain(colour):
    return np.tile(np.float32(colour), (2, 2, 1))


# Pixels


def test_pixels_are_normalised_as_preprocess_does_and_back():
    bytes_ = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(bytes_)
    preprocessed = make_preprocess(32)(image)
    colours = torch.tensor(np.array(to_rgb(image)) / 255, dtype=torch.float32).permute(2, 0, 1)
    torch.testing.assert_close(normalise_pixels(colours), preprocessed)
    torch.testing.assert_close(true_colours(preprocessed), colours)
    assert np.array_equal(to_bytes(as_picture(preprocessed)), bytes_)


def test_colours_out_of_range_are_clipped():
    picture = as_picture(torch.tensor([-9.0, 0, 9]).view(3, 1, 1).expand(3, 4, 5))
    assert picture.shape == (4, 5, 3)
    assert picture.dtype == np.float32
    assert (picture[..., 0] == 0).all()
    assert (picture[..., 2] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_makes_a_picture(dtype):
    picture = as_picture(torch.zeros(3, 4, 5, dtype=dtype, requires_grad=True))
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture[0, 0], [0.4815, 0.4578, 0.4082], atol=1e-4)


def test_bytes_are_rounded_and_clipped():
    assert to_bytes(np.array([-1, 0, 0.4999 / 255, 0.5001 / 255, 0.5, 1, 2])).tolist() == (
        [0, 0, 0, 1, 128, 255, 255]
    )


# One heat map over an image


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE, RED + GREEN], ids=["r", "g", "b", "rg"])
@pytest.mark.parametrize("negative", [False, True])
def test_overlay_is_the_sum_of_image_and_heat(colour, negative):
    mask = np.float32([[0, 0.3], [0.6, 1]])
    name = "winter" if negative else "jet"
    total = plain(colour) + matplotlib.colormaps[name](mask)[..., :3]
    overlay = show_cam_on_image(plain(colour), mask, negative)
    np.testing.assert_allclose(overlay, total / total.max(), atol=1e-6)


def test_red_stays_red_and_blue_stays_blue_where_nothing_is_relevant():
    red, _, blue = show_cam_on_image(plain(RED), COLD)[0, 0]
    assert red > blue
    red, _, blue = show_cam_on_image(plain(BLUE), COLD)[0, 0]
    assert blue > red


def test_heat_is_red_on_grey():
    hot, cold = show_cam_on_image(plain([0.5] * 3), np.float32([[1, 0]]).repeat(2, 0))[0]
    assert hot[0] > hot[2]
    assert cold[2] > cold[0]


def test_negative_saliency_is_told_apart_by_its_colours():
    assert not np.allclose(
        show_cam_on_image(plain(GREEN), HOT), show_cam_on_image(plain(GREEN), HOT, True)
    )


def test_another_colour_map_may_be_asked_for():
    overlay = show_cam_on_image(plain([0, 0, 0]), HOT, cmap="gray")
    assert np.array_equal(overlay, plain([1, 1, 1]))


def test_black_under_black_is_black():
    assert np.array_equal(show_cam_on_image(plain([0, 0, 0]), COLD, cmap="gray"), plain([0, 0, 0]))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_masks_of_any_dtype_are_values_from_0_to_1(dtype):
    mask = np.array([[0, 1], [1, 0]], dtype)
    np.testing.assert_array_equal(heat(mask, "jet"), heat(np.float32(mask), "jet"))


# Two over one image


def test_positive_is_red_and_negative_is_blue():
    # The negative mask comes first.
    for colour in (RED, GREEN, BLUE, np.zeros(3), np.ones(3)):
        red, green, blue = show_overlapped_cam(plain(colour), COLD, HOT)[0, 0]
        assert red > max(green, blue) + 0.5
        red, green, blue = show_overlapped_cam(plain(colour), HOT, COLD)[0, 0]
        assert blue > max(red, green) + 0.5


def test_both_are_violet_and_neither_is_the_grey_image():
    red, green, blue = show_overlapped_cam(plain(GREEN), HOT, HOT)[0, 0]
    assert min(red, blue) > green + 0.1
    np.testing.assert_allclose(show_overlapped_cam(plain(GREEN), COLD, COLD), 1 / 3, rtol=1e-6)


def test_overlays_are_colours():
    masks = np.random.default_rng(0).random((2, 5, 7), dtype=np.float32)
    image = np.random.default_rng(1).random((5, 7, 3), dtype=np.float32)
    for overlay in (
        show_cam_on_image(image, masks[0]),
        show_cam_on_image(image, masks[0], neg_saliency=True),
        show_overlapped_cam(image, *masks),
    ):
        assert overlay.shape == (5, 7, 3)
        assert overlay.dtype == np.float32
        assert overlay.min() >= 0
        assert overlay.max() <= 1


# What people have


BYTES = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
COLOURS = np.float32(BYTES) / 255
GREY = COLOURS[..., :1]
MASK = np.random.default_rng(1).random((5, 7), dtype=np.float32)
MASK_BYTES = to_bytes(MASK)
OPACITY = np.full((5, 7, 1), 0.4, np.float32)
PHOTOGRAPH = Image.fromarray(BYTES)
PALETTE = PHOTOGRAPH.quantize(8)
PICTURES = {
    "bytes": (BYTES, COLOURS),
    "a PIL image": (PHOTOGRAPH, COLOURS),
    "a palette": (PALETTE, np.float32(PALETTE.convert("RGB")) / 255),
    "float64": (COLOURS.astype(np.float64), COLOURS),
    "overshoot of rounding": (COLOURS * 1.002 - 0.001, COLOURS),
    "a tensor": (torch.tensor(COLOURS).permute(2, 0, 1), COLOURS),
    "a tensor with a batch axis": (torch.tensor(COLOURS).permute(2, 0, 1)[None], COLOURS),
    "a tensor of bytes": (torch.tensor(BYTES).permute(2, 0, 1), COLOURS),
    "a tensor with gradient": (torch.tensor(COLOURS).permute(2, 0, 1).requires_grad_(), COLOURS),
    "a tensor, channels last": (torch.tensor(COLOURS), COLOURS),
    "channels first": (np.moveaxis(COLOURS, -1, 0), COLOURS),
    "turned about": (COLOURS[::-1, ::-1].copy()[::-1, ::-1], COLOURS),
    "of another byte order": (COLOURS.astype(">f4"), COLOURS),
    "grey": (GREY[..., 0], GREY.repeat(3, -1)),
    "grey with an axis": (GREY, GREY.repeat(3, -1)),
    "a grey tensor": (torch.tensor(GREY[..., 0])[None], GREY.repeat(3, -1)),
    "opacity": (np.concatenate([COLOURS, OPACITY], -1), COLOURS * 0.4 + 0.6),
    "bytes with opacity": (
        np.concatenate([BYTES, np.uint8(OPACITY * 255)], -1),
        COLOURS * 0.4 + 0.6,
    ),
}  # fmt: skip
MASKS = {
    "bytes": MASK_BYTES,
    "a PIL image": Image.fromarray(MASK_BYTES),
    "a tensor": torch.tensor(MASK),
    "a tensor with a batch axis": torch.tensor(MASK)[None],
    "bfloat16": torch.tensor(MASK).bfloat16(),
    "float64": MASK.astype(np.float64),
    "an axis behind": MASK[..., None],
    "overshoot of rounding": MASK * 1.001,
}
REFUSED_PICTURES = {
    "0 to 255": (
        np.float32(BYTES),
        r"img must be in \[0, 1\].*float32 from 0 to 248: divide by 255",
    ),
    "integers of 0 to 255": (BYTES.astype(int), "int64 from 0 to 248: divide by 255"),
    "preprocessed": (normalise_pixels(torch.tensor(COLOURS).permute(2, 0, 1)), "as_picture"),
    "NaN": (np.where(COLOURS > 0.9, np.nan, COLOURS), r"values of img hold NaN .* of 105 values"),
    "infinity": (np.where(COLOURS > 0.9, -np.inf, COLOURS), "values of img hold NaN or infinity"),
    "two pictures": (np.stack([COLOURS] * 2), r"img must be one picture.*\[2, 5, 7, 3\]"),
    "two channels": (COLOURS[..., :2], r"1, 3 or 4 channels.*\[5, 7, 2\]"),
    "a number": (np.float32(1), r"img must be one picture.*\[\]"),
    "empty": (COLOURS[:0], "img is empty"),
}
REFUSED_MASKS = {
    "raw relevance": (
        MASK * 3 - 1,
        r"mask must be in \[0, 1\].* from -0\.\d+ to 1\.9.*normalise_maps",
    ),
    "0 to 255": (MASK * 255, r"float32 from 7\.\d+ to 249\.1: divide by 255"),
    "NaN": (np.where(MASK > 0.9, np.nan, MASK), r"values of mask hold NaN .* of 35 values"),
    "of the grid": (MASK[:2, :2], r"size of img, \[5, 7\], but is \[2, 2\].*resize_maps"),
    "turned": (MASK.T, r"but is \[7, 5\]"),
    "two masks": (np.stack([MASK, MASK]), r"but is \[2, 5, 7\]"),
    "a number": (np.float32(1), r"but is \[\]"),
    "in colours": (COLOURS, r"but is \[5, 7, 3\]"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_picture_may_be_what_people_have(case):
    given, colours = PICTURES[case]
    for overlay in (show_cam_on_image, lambda img, mask: show_overlapped_cam(img, mask, 1 - mask)):
        shown = overlay(given, MASK)
        assert shown.dtype == np.float32
        np.testing.assert_allclose(shown, overlay(np.float32(colours), MASK), atol=2e-3)


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_may_be_what_people_have(case):
    expected = show_cam_on_image(COLOURS, MASK)
    np.testing.assert_allclose(show_cam_on_image(COLOURS, MASKS[case]), expected, atol=0.02)
    expected = show_overlapped_cam(COLOURS, MASK, 1 - MASK)
    shown = show_overlapped_cam(COLOURS, MASKS[case], 1 - MASK)
    np.testing.assert_allclose(shown, expected, atol=0.02)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_a_mask_of_zeros_and_ones_is_relevant_where_it_is_one(dtype):
    mask = MASK > 0.5
    expected = show_cam_on_image(COLOURS, np.float32(mask))
    assert np.array_equal(show_cam_on_image(COLOURS, mask.astype(dtype)), expected)


@pytest.mark.parametrize("case", REFUSED_PICTURES)
def test_what_is_no_picture_is_refused(case):
    given, message = REFUSED_PICTURES[case]
    with pytest.raises(ValueError, match=message):
        show_cam_on_image(given, MASK)
    with pytest.raises(ValueError, match=message):
        show_overlapped_cam(given, MASK, MASK)


@pytest.mark.parametrize("case", REFUSED_MASKS)
def test_what_is_no_relevance_is_refused(case):
    given, message = REFUSED_MASKS[case]
    with pytest.raises(ValueError, match=message):
        show_cam_on_image(COLOURS, given)
    for masks, name in (((given, MASK), "neg_mask"), ((MASK, given), "pos_mask")):
        with pytest.raises(ValueError, match=message.replace("mask", name)):
            show_overlapped_cam(COLOURS, *masks)


@pytest.mark.parametrize("thing", [None, "horse.png", np.array([None]), COLOURS * 1j])
def test_what_is_neither_array_nor_picture_is_refused(thing):
    with pytest.raises(TypeError, match="img must be an array, a tensor or a PIL image; got"):
        show_cam_on_image(thing, MASK)
    with pytest.raises(TypeError, match="mask must be an array, a tensor or a PIL image; got"):
        show_cam_on_image(COLOURS, thing)


def test_colours_are_mixed_as_ever_bit_for_bit():
    mixed = heat(MASK, "jet") + COLOURS
    assert np.array_equal(show_cam_on_image(COLOURS, MASK), mixed / mixed.max())


def test_alpha_is_the_weight_of_the_heat():
    white = np.ones((5, 7, 3), np.float32)
    assert np.array_equal(show_cam_on_image(white, MASK, alpha=0), white)
    jet = heat(MASK, "jet")
    np.testing.assert_allclose(show_cam_on_image(white, MASK, alpha=1), jet / jet.max())
    mixed = 0.3 * jet + 0.7 * white
    np.testing.assert_allclose(show_cam_on_image(white, MASK, alpha=0.3), mixed / mixed.max())
    grey = COLOURS.mean(-1, keepdims=True).repeat(3, -1)
    np.testing.assert_allclose(show_overlapped_cam(COLOURS, MASK, MASK, alpha=0), grey)
    red = show_overlapped_cam(plain(GREEN), COLD, HOT, alpha=1)
    np.testing.assert_allclose(red, plain([0.9, 0.1, 0.1]), atol=1e-6)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha must be from 0 to 1, got {alpha}"):
        show_cam_on_image(COLOURS, MASK, alpha=alpha)
    with pytest.raises(ValueError, match="alpha must be from 0 to 1"):
        show_overlapped_cam(COLOURS, MASK, MASK, alpha=alpha)


def test_a_preprocessed_image_with_nan_is_no_picture():
    with pytest.raises(ValueError, match="pixels hold NaN or infinity"):
        as_picture(torch.full((3, 4, 5), torch.nan))


# Files


ENDINGS = ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm", "jp2", "avif"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_raster_formats_are_opened(tmp_path, ending):
    Image.new("RGB", (6, 4), "red").save(tmp_path / f"a.{ending}")
    assert image_files(tmp_path) == [tmp_path / f"a.{ending}"]
    image = to_rgb(open_image(tmp_path / f"a.{ending}"))
    assert image.size == (6, 4)
    assert np.abs(np.int32(image) - (255, 0, 0)).max() < 20


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"%PDF-1.4\n1 0 obj\n",
        b"\x89HDF\r\n\x1a\n",
        b"\xd7\xcd\xc6\x9a" + bytes(80),
        b"SIMPLE  =                    T" + b" " * 50,
        b"a letter",
        b"",
    ],
    ids=["PostScript", "PDF", "HDF5", "WMF", "FITS", "text", "empty"],
)
def test_nothing_else_is_opened_under_a_pictures_name(tmp_path, monkeypatch, content):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program started"))
    (tmp_path / "cat.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cat\.png is not an image that can be read \(PNG, JPEG"):
        open_image(tmp_path / "cat.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_files_are_named_wherever_they_are_damaged(tmp_path, ending):
    path = tmp_path / f"cat.{ending}"
    PHOTOGRAPH.resize((40, 40)).save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for end in rng.integers(0, len(content) - 1, 40):
        flipped = bytearray(content)
        flipped[end] ^= 1 << int(rng.integers(8))
        for damaged in (content[:end], bytes(flipped)):
            path.write_bytes(damaged)
            try:
                to_rgb(open_image(path))
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    PHOTOGRAPH.save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match=r"bomb\.png is not an image.*exceeds limit of 20 pixels"):
        open_image(tmp_path / "bomb.png")


def test_what_is_missing_is_answered_with_some_of_what_is_there(tmp_path):
    for number in range(30):
        PHOTOGRAPH.save(tmp_path / f"{number:02}.png")
    some = r"no image .*cat\.png; images in that folder: 00\.png, .*09\.png, \.\.\.$"
    with pytest.raises(FileNotFoundError, match=some):
        open_image(tmp_path / "cat.png")
    with pytest.raises(FileNotFoundError, match=r"in that folder: 00\.png, 01"):
        open_image(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"in that folder: none"):
        open_image(tmp_path / "nowhere" / "cat.png")


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for ending in ("gif", "png", "webp", "tif"):
        path = tmp_path / f"a.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        red, _, blue = to_rgb(open_image(path)).getpixel((0, 0))
        assert red > 200 > 50 > blue


def test_folders_list_pictures_only(tmp_path):
    others = ["c.txt", "d.pdf", "e.hdf", "f.eps", "g.ps", "h", "._a.png", ".unfinished-1.png"]
    for name in ["b.PNG", "a.jpeg", *others]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert [path.name for path in image_files(tmp_path)] == ["a.jpeg", "b.PNG"]
    assert image_files(tmp_path / "nowhere") == []
