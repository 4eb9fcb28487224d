"""What a model sees of a picture, where its maps lie on it, and scores of the same run."""

import pickle
from functools import wraps

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision import transforms
from transformers import CLIPImageProcessor, SiglipImageProcessor

from explainer import Explainer
from image_utils import to_bytes
from placing import overlaid, placed
from preprocessing import (
    Preprocessing,
    WholeFrame,
    Window,
    as_framed,
    fitted_grid,
    window_seen,
)
from recording.encoders import Encoder, encoder_of, processed
from saliency import direction_maps, maps_and_scores, methods
from small_clip import small_resnet


@pytest.fixture(scope="module")
def vit() -> Explainer:
    return Explainer("ViT-emoji")


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((224, 224), (14, 14)),
        ((1, 1), (14, 14)),
        ((500, 400), (13, 16)),
        ((400, 500), (16, 13)),
        ((1000, 250), (7, 28)),
        ((30_000, 10), (1, 196)),
        ((10, 30_000), (196, 1)),
    ],
)
def test_a_grid_is_fitted_to_the_sides_with_as_many_cells(size, grid):
    assert fitted_grid(size, 196) == grid


def test_a_square_is_seen_as_the_model_has_always_seen_it(vit):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for crop in (False, True):
        images = vit.images([np.asarray(vit.frame(crop)(image))])
        torch.testing.assert_close(images[0], vit.preprocess(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["squash", "longest"])
def test_a_model_that_is_used_to_whole_pictures_sees_them_as_ever(vit, mode, monkeypatch):
    monkeypatch.setattr(vit, "pixels", vit.pixels._replace(resize_mode=mode))
    assert np.asarray(vit.frame()(Image.new("RGB", (300, 100)))).shape == (224, 224, 3)


SIZES = [(500, 400), (300, 700), (61, 40), (4000, 900), (2000, 20)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_the_window_of_a_frame_is_that_of_its_arithmetic(mode, size):
    frame = transforms.Compose(Preprocessing(resize_mode=mode, fill=40).square(64))
    found = window_seen(frame, size)
    for whole, (first, last) in zip(
        size, ((found[0], found[2]), (found[1], found[3])), strict=True
    ):
        side = {"shortest": min(size), "longest": max(size), "squash": whole}[mode]
        resized = max(1, round(64 * whole / side))  # and put into the middle of 64 pixels
        pixel, before = whole / resized, int((64 - resized) / 2)
        assert first == pytest.approx(-before * pixel, abs=1.1 * pixel)
        assert last == pytest.approx((64 - before) * pixel, abs=1.1 * pixel)


def test_the_window_of_other_libraries_pictures_is_found(vit):
    size = (640, 480)
    squash = open_clip.image_transform(64, is_train=False, resize_mode="squash")
    crop = open_clip.image_transform(64, is_train=False)
    clip = CLIPImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    siglip = SiglipImageProcessor(size={"height": 64, "width": 64})
    for frame, expected in (
        (squash, (0, 0, 640, 480)),
        (crop, (80, 0, 560, 480)),
        (lambda image: processed(siglip, image), (0, 0, 640, 480)),
        (lambda image: processed(clip, image), (106.7, 26.7, 533.3, 453.3)),
    ):
        assert np.abs(np.subtract(window_seen(frame, size), expected)).max() <= 8


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_how_masks_are_cut_is_found_by_looking(mode):
    frame = open_clip.image_transform(64, is_train=False, resize_mode=mode)
    assert as_framed(frame, 64, Preprocessing()) == Preprocessing(resize_mode=mode)
    cut_twice = transforms.Compose([transforms.Resize(72), transforms.CenterCrop(64)])
    with pytest.raises(ValueError, match=r"leaves \[39, 7, 153, 121\].* none of the ways"):
        as_framed(cut_twice, 64, Preprocessing())


def test_frames_go_to_other_processes(vit):
    for crop in (False, True):
        pickle.loads(pickle.dumps(vit.frame(crop)))
    assert isinstance(vit.frame(), WholeFrame)


def test_a_map_lies_where_the_model_looked():
    maps = torch.tensor([[[0.0, 1.0]]])
    place = placed(maps, Window(10, 0, 30, 20), (40, 20))
    assert place[1:] == (10, 0, 30, 20)
    assert place.maps.shape == (1, 20, 20)
    picture = np.zeros((20, 40, 3), np.float32)
    changed = to_bytes(overlaid(picture, place.heat[0], place)).any(-1)
    assert changed[:, 10:30].all()
    assert not changed[:, :10].any()
    assert not changed[:, 30:].any()


def test_what_lies_beyond_the_picture_is_cut_off_its_map():
    maps = torch.arange(4.0)[None, :, None].expand(1, 4, 4)
    place = placed(maps, Window(0, -10, 40, 30), (40, 20))
    assert place[1:] == (0, 0, 40, 20)
    torch.testing.assert_close(
        place.maps, placed(maps, Window(0, 0, 40, 40), (40, 40)).maps[:, 10:30]
    )


def resnet() -> Encoder:
    return encoder_of(small_resnet(vocab_size=100).double().visual.eval())


@pytest.mark.parametrize("network", ["vit", "resnet", "open_clip"])
def test_scores_of_every_method_are_those_of_the_features(network, clip):
    torch.manual_seed(0)
    encoder, side = {
        "vit": lambda: (encoder_of(clip), 32),
        "resnet": lambda: (resnet(), 64),
        "open_clip": lambda: (
            encoder_of(open_clip.create_model("ViT-S-32-alt", force_image_size=64).eval()),
            64,
        ),
    }[network]()
    images = torch.rand(2, 3, side, side).to(encoder.weight)
    with torch.no_grad():
        features = encoder.encode(images)
    directions = torch.randn(3, features.shape[-1]).to(features)
    expected = 100 * features / features.norm(dim=-1, keepdim=True) @ directions.T
    for method in methods(encoder) if network != "open_clip" else ("last grad", "direct", "LeGrad"):
        maps, scores = maps_and_scores(encoder, images, directions, method)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(maps, direction_maps(encoder, images, directions, method))


def test_features_are_not_made_twice_for_the_default_methods(clip, monkeypatch):
    for encoder, other in ((encoder_of(clip), "LeGrad"), (resnet(), "occlusion")):
        kind, ran = type(encoder.model), []
        forward = kind.forward

        @wraps(forward)
        def counted(self, *given, ran=ran, forward=forward):
            ran.append(1)
            return forward(self, *given)

        images = torch.rand(2, 3, 64, 64).to(encoder.weight)
        directions = torch.randn(3, encoder.model.output_dim).to(encoder.weight)
        monkeypatch.setattr(kind, "forward", counted)
        maps_and_scores(encoder, images, directions, next(iter(methods(encoder))))
        assert ran == []
        maps_and_scores(encoder, images, directions, other)
        assert ran
