"""Images: any PIL image becomes what the network reads; RGB images exactly as OpenAI's do."""

import io
import pickle
import struct

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clip_ import make_preprocess, to_rgb
from image_utils import open_image
from preprocessing import RESIZE_MODES, Preprocessing

RED, WHITE = (255, 0, 0), (255, 255, 255)
MODES = [  # converted one after the other: PIL has no direct way to some
    "1", "L", "L I", "L I;16", "L F", "L LA", "L LA La", "P", "PA", "RGBA", "RGBA RGBa", "RGBX",
    "CMYK", "YCbCr", "HSV", "LAB",
]  # fmt: skip


def photograph(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def saved_and_opened(image: Image.Image, format: str, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format, **options)
    return Image.open(file)


def colour(image: Image.Image) -> tuple[int, int, int]:
    """Of an image that has but one."""
    ((_, value),) = to_rgb(image).getcolors()
    return value


@pytest.mark.parametrize("resolution", [32, 224, 288])
@pytest.mark.parametrize("size", [(60, 40), (40, 60), (224, 224), (301, 517), (31, 33), (1, 1)])
def test_rgb_images_equal_openai_exactly(size, resolution):
    # open_clip's transform for evaluation has OpenAI's steps.
    reference = open_clip.image_transform(resolution, is_train=False)
    image = photograph(*size)
    tensor = make_preprocess(resolution)(image)
    assert tensor.shape == (3, resolution, resolution)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, reference(image))


@pytest.mark.parametrize(
    "size", [(60, 40), (40, 60), (32, 32), (301, 517), (9, 7), (2, 90), (90, 2)]
)
@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_rgb_images_equal_open_clip_exactly(size, resize_mode, interpolation):
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)}
    modes = {"interpolation": interpolation, "resize_mode": resize_mode}
    reference = open_clip.image_transform(32, False, fill_color=77, **statistics, **modes)
    preprocess = make_preprocess(32, Preprocessing(fill=77, **statistics, **modes))
    assert torch.equal(preprocess(photograph(*size)), reference(photograph(*size)))


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_images_of_odd_modes_become_rgb_first(resize_mode):
    image = photograph().quantize(16)
    preprocess = make_preprocess(32, Preprocessing(resize_mode=resize_mode))
    assert torch.equal(preprocess(image), preprocess(image.convert("RGB")))


def test_the_longest_side_of_a_line_is_resized_and_a_pixel_is_left_of_it():
    preprocess = make_preprocess(8, Preprocessing(resize_mode="longest"))
    seen = preprocess(Image.new("RGB", (20_000, 1), "white"))
    assert (seen[0] > 0).sum() == 8


def test_pixels_are_normalised_by_the_statistics_of_the_training_images():
    black = make_preprocess(8)(Image.new("RGB", (8, 8)))
    expected = torch.tensor([-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -1.4802198])
    torch.testing.assert_close(black[:, 0, 0], expected)


@pytest.mark.parametrize("size", [(9, 7), (50, 41)])
@pytest.mark.parametrize("modes", MODES)
def test_every_mode_is_read(modes, size):
    image = photograph(*size)
    for mode in modes.split():
        image = image.convert(mode)
    assert make_preprocess(32)(image).isfinite().all()


def test_rgb_images_are_untouched():
    image = photograph()
    assert np.array_equal(to_rgb(image), image)


def test_grey_becomes_three_equal_channels():
    assert colour(Image.new("L", (3, 3), 77)) == (77, 77, 77)


def test_palette_images_show_their_colours_and_are_interpolated_as_rgb():
    image = photograph().quantize(16)
    assert image.mode == "P"
    preprocess = make_preprocess(224)
    assert torch.equal(preprocess(image), preprocess(image.convert("RGB")))


def test_cmyk_images_show_their_colours():
    assert colour(Image.new("CMYK", (3, 3), (0, 255, 255, 0))) == RED


def test_transparent_parts_show_white():
    assert colour(Image.new("RGBA", (3, 3), (0, 0, 0, 0))) == WHITE
    assert colour(Image.new("LA", (3, 3), (0, 0))) == WHITE
    assert colour(Image.new("RGBA", (3, 3), (255, 0, 0, 51))) == (255, 204, 204)


def test_opaque_parts_of_images_with_transparency_keep_their_colours():
    image = photograph()
    assert np.array_equal(to_rgb(image.convert("RGBA")), image)


def test_transparent_palette_entries_show_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    opened = saved_and_opened(image, "PNG", transparency=1)
    assert list(np.asarray(to_rgb(opened))[0].tolist()) == [list(RED), list(WHITE)]


def test_a_transparent_key_colour_shows_white():
    image = saved_and_opened(Image.new("RGB", (3, 3), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert colour(image) == WHITE


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int32], ids=["I;16", "I;16B", "I"])
@pytest.mark.parametrize(("level", "expected"), [(0, 0), (257, 1), (32896, 128), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(dtype, level, expected):
    image = Image.fromarray(np.full((3, 3), level, dtype))
    assert image.mode.startswith("I")
    assert colour(image) == (expected,) * 3


def test_16_bit_files_are_scaled():
    image = Image.fromarray(np.full((3, 3), 32896, np.uint16))
    assert colour(saved_and_opened(image, "PNG")) == (128, 128, 128)
    assert colour(saved_and_opened(image, "TIFF")) == (128, 128, 128)


def test_what_lies_outside_16_bits_is_clipped():
    assert colour(Image.fromarray(np.full((3, 3), -5, np.int32))) == (0, 0, 0)
    assert colour(Image.fromarray(np.full((3, 3), 70_000, np.int32))) == WHITE


@pytest.mark.parametrize("dtype", [np.uint16, ">u2"], ids=["I;16", "I;16B"])
def test_16_bit_grey_stays_16_bit_where_it_is_dark(dtype):
    assert colour(Image.fromarray(np.full((3, 3), 255, dtype))) == (1, 1, 1)


@pytest.mark.parametrize(("mode", "white"), [("I", 255), ("F", 255), ("F", 1)])
def test_grey_of_8_bits_keeps_its_brightness_in_wider_modes(mode, white):
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32)
    pixels = ramp * np.float32(white / 255)
    wide = Image.fromarray(pixels.astype({"I": np.int32, "F": np.float32}[mode]))
    assert wide.mode == mode
    assert np.array_equal(to_rgb(wide), Image.fromarray(ramp).convert("RGB"))


def test_wide_modes_may_be_of_one_colour():
    for level, expected in ((0, 0), (0.5, 128), (1, 255), (128, 128), (255, 255)):
        grey = Image.new("F", (3, 3), level)
        assert colour(grey) == (expected,) * 3
    for level, expected in ((0, 0), (1, 1), (255, 255), (256, 1)):
        assert colour(Image.new("I", (3, 3), level)) == (expected,) * 3


def test_floats_may_be_off_by_rounding():
    assert colour(Image.new("F", (3, 3), 1.0005)) == WHITE
    assert colour(Image.new("F", (3, 3), 255.1)) == WHITE
    assert np.asarray(to_rgb(Image.fromarray(np.float32([[-0.0005, 1]])))).min() == 0


@pytest.mark.parametrize("levels", [(-1, 1), (-9, 200), (0, 256), (0, 1.5), (-5, -4)])
def test_floats_of_another_scale_are_refused(levels):
    low, high = levels
    with pytest.raises(
        ValueError, match=rf"0 to 1 or from 0 to 255; .*from {low} to {high}: scale"
    ):
        to_rgb(Image.fromarray(np.float32([levels])))


@pytest.mark.parametrize("level", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_refused(level):
    with pytest.raises(ValueError, match=r"of floats \(mode F\) hold NaN or infinity"):
        to_rgb(Image.fromarray(np.float32([[0, level]])))


@pytest.mark.parametrize("level", [np.nan, 999])
def test_floats_that_are_refused_name_their_file(tmp_path, level):
    Image.fromarray(np.float32([[0, level]])).save(tmp_path / "depth.tiff")
    with pytest.raises(ValueError, match=r"mode F\) in .*depth\.tiff"):
        to_rgb(open_image(tmp_path / "depth.tiff"))


@pytest.mark.parametrize("mode", ["RGBX", "YCbCr", "HSV", "LAB", "RGBA", "RGBa", "PA", "CMYK"])
@pytest.mark.parametrize("shade", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 153)])
def test_every_mode_keeps_its_colours(mode, shade):
    image = Image.new("RGB", (3, 3), shade)
    for step in {"RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA")}.get(mode, (mode,)):
        image = image.convert(step)
    assert image.mode == mode
    assert np.abs(np.subtract(colour(image), shade)).max() <= 26


@pytest.mark.parametrize("mode", ["1", "LA", "La", "P"])
def test_grey_modes_keep_their_brightness(mode):
    for level in (0, 255):
        image = Image.new("L", (3, 3), level)
        for step in {"La": ("LA", "La")}.get(mode, (mode,)):
            image = image.convert(step)
        assert colour(image) == (level,) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_as_their_exif_says(orientation):
    turns = {  # what undoes each orientation, from the EXIF standard
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }[orientation]
    image = photograph()
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = image
    for turn in turns:
        upright = upright.transpose(turn)
    assert np.array_equal(to_rgb(saved_and_opened(image, "PNG", exif=exif)), upright)


def test_what_is_upright_is_not_turned_again():
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (photograph(), photograph().convert("P")):
        once = to_rgb(saved_and_opened(image, "PNG", exif=exif))
        assert once.size == (40, 60)
        assert np.array_equal(to_rgb(once), once)


def turned_palette(**options):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    return saved_and_opened(image, "PNG", **options)


def test_transparent_parts_show_white_when_turned():
    exif = Image.Exif()
    exif[0x0112] = 3
    opened = turned_palette(transparency=1, exif=exif)
    assert np.asarray(to_rgb(opened))[0].tolist() == [list(WHITE), list(RED)]


@pytest.mark.parametrize(
    "damage",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0",
        b"",
        b"II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x09\0\0\xff\xff",
        "not bytes",
        7,
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_images_with_damaged_exif_are_taken_as_upright(damage):
    image = photograph()
    image.info["exif"] = damage
    assert np.array_equal(to_rgb(image), photograph())
    image.info["xmp"] = damage
    assert np.array_equal(to_rgb(image), photograph())


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_there_are_not_are_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert to_rgb(saved_and_opened(photograph(), "JPEG", exif=exif)).size == (60, 40)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_orientation_holds_whatever_else_is_damaged():
    # Two entries: orientation 6, and one whose value lies beyond the end.
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x010F, 2, 99, 9999)
    image = photograph()
    image.info["exif"] = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    assert to_rgb(image).size == (40, 60)


# Extremely long images


@pytest.mark.parametrize("size", [(1, 20_000), (20_001, 1), (30_000, 10), (3, 40_000)])
def test_extremely_long_images_take_little_memory(monkeypatch, size):
    resized = []
    resize = Image.Image.resize

    def watched(image, size, *args, **kwargs):
        resized.append(size[0] * size[1])
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    assert make_preprocess(224)(Image.new("RGB", size)).shape == (3, 224, 224)
    assert max(resized) <= 34 * 224**2


@pytest.mark.parametrize(
    "size", [(2, 66), (2, 130), (131, 2), (3, 500), (400, 5), (1, 200), (1, 201)]
)
def test_extremely_long_images_show_the_same_middle(size):
    whole = open_clip.image_transform(32, is_train=False)(photograph(*size))
    torch.testing.assert_close(make_preprocess(32)(photograph(*size)), whole, atol=0.2, rtol=0)


@pytest.mark.parametrize("size", [(2, 64), (64, 2), (1, 33), (320, 10)])
def test_long_images_equal_openai_exactly(size):
    image = photograph(*size)
    reference = open_clip.image_transform(32, is_train=False)
    assert torch.equal(make_preprocess(32)(image), reference(image))


def test_the_image_given_is_not_changed():
    image = photograph().convert("RGBA")
    before = image.copy()
    make_preprocess(32)(image)
    assert image.mode == "RGBA"
    assert np.array_equal(image, before)


@pytest.mark.parametrize("thing", [np.zeros((3, 4, 3), np.uint8), torch.zeros(3, 4, 4), "a.png"])
def test_what_is_not_an_image_is_an_error_that_says_what_would_be(thing):
    with pytest.raises(
        TypeError, match=r"takes a PIL image, got (numpy|torch|builtins).*fromarray"
    ):
        make_preprocess(32)(thing)


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_the_transform_can_be_sent_to_worker_processes(resize_mode):
    made = make_preprocess(32, Preprocessing(resize_mode=resize_mode))
    preprocess = pickle.loads(pickle.dumps(made))
    assert preprocess(photograph()).shape == (3, 32, 32)
