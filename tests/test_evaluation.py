"""The measures: counted by hand, and against independent implementations."""

import copy
import csv
import shutil
from contextlib import nullcontext
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import open_clip
import pytest
import quantus
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from conftest import noise
from evaluation import __main__ as evaluate
from evaluation import study as studies
from evaluation.__main__ import main
from evaluation.baselines import baselines, blurred
from evaluation.faithfulness import (
    area,
    curves,
    end_scores,
    insertion_deletion,
    score_of,
    ways,
)
from evaluation.last_grad import VARIANTS, agreement, shares, variant_maps
from evaluation.localisation import average_precision, best_iou, where_it_lies
from evaluation.sanity import cascade, parts, randomisation, rank_correlation
from evaluation.scene_sets import SceneBatch
from evaluation.study import FEWER, Study, numbered
from evaluation.tables import by_picture, gain
from intervals import interval
from methods import METHODS
from model import ModifiedResNet
from preprocessing import OPENAI
from recording.encoders import encoder_of
from saliency import relevance_maps, resize_maps
from siglip import SigLIP
from small_clip import small_resnet, small_vit
from vit_oracles import cosine, recorded_blocks

MASK = torch.tensor([[True, False], [False, True]])


@pytest.fixture(scope="module", params=["spread", "with equal values"])
def maps_and_masks(request):
    maps = noise(20, 9, 11).float()
    if request.param == "with equal values":
        maps = (3 * maps).round()
    return maps, noise(20, 9, 11) > 0.5


def test_iou_by_hand():
    # Above 2: one pixel of two hit and one too many; above 1: both, of three.
    maps = torch.tensor([[4.0, 3.0], [1.0, 2.0]])
    assert best_iou(maps, MASK) == pytest.approx(2 / 3)


def test_average_precision_by_hand():
    maps = torch.tensor([[4.0, 3.0], [1.0, 2.0]])
    assert average_precision(maps, MASK) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_average_precision_is_scikit_learns(maps_and_masks):
    maps, masks = maps_and_masks
    expected = [
        average_precision_score(mask.flatten(), one.flatten())
        for one, mask in zip(maps, masks, strict=True)
    ]
    np.testing.assert_allclose(average_precision(maps, masks), expected, rtol=1e-5)


def test_the_best_iou_is_that_of_trying_every_threshold(maps_and_masks):
    maps, masks = maps_and_masks
    for one, mask, found in zip(maps, masks, best_iou(maps, masks), strict=True):
        tried = [((one >= t) & mask).sum() / ((one >= t) | mask).sum() for t in one.unique()]
        assert found == pytest.approx(max(tried).item())


def test_a_map_of_nothing_scores_nothing():
    assert best_iou(torch.zeros(2, 2), MASK) == 0
    assert average_precision(torch.zeros(2, 2), MASK) == 0


# Insertion and deletion


def test_pixels_are_turned_in_the_order_of_the_map():
    start, end = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    maps = torch.tensor([[[0.1, 0.4], [0.3, 0.2]]])
    shown = []

    def score(images):
        shown.append(images[0, 0].flatten().tolist())
        return images.mean((1, 2, 3))[:, None]

    curve = curves(score, maps, start, end, steps=4)
    shown.sort(key=sum)
    assert shown == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]]
    assert curve[0, :, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert area(curve[0, :, 0]) == 0.5


def test_the_area_is_that_under_the_curve():
    assert area(torch.tensor([0.0, 1.0, 1.0])) == 0.75


def test_a_map_that_knows_the_answer_is_more_faithful_than_its_opposite(clip, images):
    with torch.no_grad():
        features = torch.nn.functional.normalize(clip.encode_image(images), dim=-1)
    asked = torch.tensor([0, 1])
    # What of a picture makes it itself: where hiding a patch costs the most similarity.
    losses = torch.zeros(2, 4, 4, dtype=torch.float64)
    mean = images.mean((-2, -1), keepdim=True)
    for row in range(4):
        for column in range(4):
            hidden = images.clone()
            hidden[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = mean
            with torch.no_grad():
                left = torch.nn.functional.normalize(clip.encode_image(hidden), dim=-1)
            losses[:, row, column] = 1 - (left * features).sum(-1)
    maps = losses.repeat_interleave(8, 1).repeat_interleave(8, 2)
    score = score_of(clip, features, asked)
    right, wrong = (insertion_deletion(score, images, one, steps=16) for one in (maps, -maps))
    assert set(right) == {
        f"{way}, {score}"
        for way in ("insertion", "deletion")
        for score in ("similarity", "softmax")
    }
    assert (right["insertion, similarity"] > wrong["insertion, similarity"]).all()
    assert (right["deletion, similarity"] < wrong["deletion, similarity"]).all()


def test_insertion_and_deletion_equal_a_plain_loop(clip, images):
    maps = noise(2, 32, 32)
    features = torch.nn.functional.normalize(noise(3, 16), dim=-1)
    score = score_of(clip, features, torch.tensor([2, 0]))
    found = insertion_deletion(score, images, maps, steps=8)
    ends = end_scores(score, images)
    known = insertion_deletion(score, images, maps, ends, steps=8)
    assert all(torch.equal(found[name], known[name]) for name in found)
    for index, asked in enumerate((2, 0)):
        order = np.argsort(-maps[index].flatten().numpy(), kind="stable")
        image = images[index].flatten(1)
        mean = image.mean(1)
        scores = []
        for count in [round(n * 1024 / 8) for n in range(9)]:
            shown = image.clone()
            shown[:, order[:count]] = mean[:, None]
            with torch.no_grad():
                encoded = clip.encode_image(shown.view(1, 3, 32, 32))[0]
            scores.append(torch.cosine_similarity(encoded, features[asked], dim=0).item())
        expected = np.trapezoid(scores, np.linspace(0, 1, 9))
        assert found["deletion, similarity"][index] == pytest.approx(expected)


class Similarities(torch.nn.Module):
    """A classifier of grey images, whose classes are the concepts."""

    def __init__(self, clip, features):
        super().__init__()
        self.clip, self.features = clip, features

    def forward(self, images):
        grey = images.expand(-1, 3, -1, -1)
        return F.normalize(self.clip.encode_image(grey), dim=-1) @ self.features.T


@pytest.mark.parametrize("way", ["insertion", "deletion"])
def test_curves_are_those_of_quantus_pixel_flipping(clip, images, way):
    maps, asked = noise(2, 32, 32), np.array([2, 0])
    model = Similarities(clip, F.normalize(noise(3, 16), dim=-1)).eval()
    start, end = ways(images[:, :1])[way]

    def turn(arr, indices, **_):
        turned = arr.copy()
        for row, places, values in zip(turned, indices, end.flatten(1).numpy(), strict=True):
            row.flat[places] = values[places]
        return turned

    flipping = quantus.PixelFlipping(
        features_in_step=128,
        normalise=False,
        perturb_func=turn,
        disable_warnings=True,
    )
    theirs = flipping(
        model, start.numpy(), asked, a_batch=maps[:, None].numpy(), softmax=False, device="cpu"
    )
    with torch.no_grad():
        ours = curves(model, maps, start, end, steps=8)[[0, 1], 1:, asked]
    np.testing.assert_allclose(np.array(theirs), ours, atol=1e-6)  # they compute in float32


def test_maps_of_another_size_and_maps_without_an_order_are_refused(clip, images):
    score = score_of(clip, noise(3, 16), torch.tensor([2, 0]))
    broken = noise(2, 32, 32)
    broken[1, 5, 5] = torch.nan
    for maps, message in (
        (noise(2, 4, 4), "of its size"),
        (noise(1, 32, 32), "one map an image"),
        (broken, "maps hold NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            insertion_deletion(score, images, maps)


@pytest.mark.parametrize("asked", [[2, 3], [-1, 0]])
def test_a_target_that_is_not_there_is_refused(clip, asked):
    with pytest.raises(ValueError, match="from 0 to 2"):
        score_of(clip, noise(3, 16), torch.tensor(asked))


def test_a_target_is_asked_of_each_image(clip, images):
    score = score_of(clip, noise(3, 16), torch.tensor([0]))
    with pytest.raises(ValueError, match="of each image: 1 of 2"):
        insertion_deletion(score, images, noise(2, 32, 32))


def test_a_curve_has_two_points_and_scores_that_are_numbers(clip, images):
    with pytest.raises(ValueError, match="at least 1; got 0"):
        curves(clip.encode_image, noise(2, 32, 32), images, images, steps=0)
    with pytest.raises(ValueError, match="two points"):
        area(torch.ones(3, 1))
    with pytest.raises(ValueError, match="curves hold NaN"):
        area(torch.tensor([0.0, torch.nan, 1.0]))


def test_blurring_keeps_the_mean_and_smooths():
    images = noise(2, 3, 64, 64)
    smooth = blurred(images, 3)
    assert smooth.std() < images.std() / 4
    torch.testing.assert_close(blurred(torch.ones(1, 3, 64, 64), 3), torch.ones(1, 3, 64, 64))


# Sanity


def test_rank_correlation_is_scipys(maps_and_masks):
    maps, _ = maps_and_masks
    found = rank_correlation(maps[:10], maps[10:])
    expected = [
        spearmanr(a.flatten(), b.flatten()).statistic
        for a, b in zip(maps[:10], maps[10:], strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_flat_map_correlates_with_nothing():
    assert rank_correlation(torch.zeros(3, 3), noise(3, 3)) == 0


def test_maps_that_cannot_be_ranked_are_refused():
    with pytest.raises(ValueError, match=r"one shape; got \[3, 3\] and \[3, 4\]"):
        rank_correlation(noise(3, 3), noise(3, 4))
    with pytest.raises(ValueError, match="maps hold NaN"):
        rank_correlation(noise(3, 3), torch.full((3, 3), torch.nan))


@pytest.fixture(params=["ViT", "ResNet", "SigLIP"])
def model(request, clip):
    if request.param == "SigLIP":
        return SigLIP(64, 2, 128, 8, 16, 100, 64, 1).double()
    return clip if request.param == "ViT" else small_resnet(vocab_size=100).double()


def test_every_parameter_is_in_one_part(model):
    found = [id(value) for _, values in parts(model.visual) for value in values]
    assert sorted(found) == sorted(id(value) for value in model.visual.parameters())


def test_the_cascade_draws_part_after_part_anew_and_leaves_the_model_alone(model):
    before = {name: value.clone() for name, value in model.visual.named_parameters()}
    names = [name for name, _ in parts(model.visual)]
    changed = []
    for _, visual in cascade(model):
        now = dict(visual.named_parameters())
        changed.append({key for key in before if not torch.equal(now[key], before[key])})
        for key in before:  # only the order of the values is another
            assert torch.equal(
                now[key].flatten().sort().values, before[key].flatten().sort().values
            )
    assert changed[0] == set()
    assert all(a <= b for a, b in pairwise(changed))
    assert len(changed) == len(names) + 1
    assert all(torch.equal(value, before[key]) for key, value in model.visual.named_parameters())


def test_maps_of_the_model_change_and_maps_of_the_picture_do_not(clip, images, targets):
    found = randomisation(lambda v: relevance_maps(v, images, targets, "last grad"), clip)
    assert found["nothing"].flatten().tolist() == pytest.approx([1] * 6)
    assert found["embedding"].abs().max() < 0.9
    edges = randomisation(lambda v: baselines(clip)["edges"](v, images, targets), clip)
    assert min(one.min() for one in edges.values()) == pytest.approx(1)


def test_correlations_are_those_of_quantus_parameter_randomisation(
    clip, images, targets, monkeypatch
):
    def maps_of(visual, images):
        return resize_maps(relevance_maps(visual, images, targets[:1]), (32, 32))[:, 0]

    def explain(model, inputs, **_):
        return maps_of(model, torch.as_tensor(inputs))[:, None].numpy()

    def parts_drawn_anew(self, **_):
        return islice(cascade(self.model), 1, None)

    wrapper = quantus.helpers.model.pytorch_model.PyTorchModel
    monkeypatch.setattr(wrapper, "get_random_layer_generator", parts_drawn_anew)
    test = quantus.MPRT(abs=False, normalise=False, disable_warnings=True)
    theirs = test(
        clip.visual,
        images.numpy(),
        np.zeros(2, int),
        a_batch=explain(clip.visual, images),
        explain_func=explain,
        device="cpu",
    )
    ours = randomisation(lambda visual: maps_of(visual, images), clip)
    assert list(theirs)[1:] == list(ours)[1:]
    for one, other in zip(theirs.values(), ours.values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


# Baselines and the parts of last grad


def test_baselines_are_maps_of_every_image_and_target(model, targets):
    images = noise(2, 3, 64, 96)
    if isinstance(model, SigLIP):
        images, targets = images[..., :64], noise(3, 128)
    for name, baseline in baselines(model).items():
        maps = baseline(model, images, targets)
        assert maps.shape[:2] == (2, 3), name
        assert torch.equal(maps, baseline(model, images, targets)), name
        assert (maps >= 0).all(), name
    assert {"centre", "random", "edges", "attention"} <= baselines(model).keys()
    assert ("rollout" in baselines(model)) == (not isinstance(model.visual, ModifiedResNet))


def test_the_parts_of_last_grad_add_up_to_it(clip, images, targets):
    found = shares(clip, images, targets)
    assert found.shape == (4, 2, 2, 3, 4, 4)
    expected = relevance_maps(clip, images, targets, "last grad")
    torch.testing.assert_close(found.sum((0, 1)), expected, rtol=1e-9, atol=0)


def test_its_last_block_is_gradcam(clip, images, targets):
    expected = relevance_maps(clip, images, targets, "gradcam")
    torch.testing.assert_close(shares(clip, images, targets)[-1].sum(0), expected)


def test_gradients_of_the_last_block_agree_with_themselves(clip, images, targets):
    found = agreement(clip, images, targets)
    assert found.shape == (4, 2, 3)
    torch.testing.assert_close(found[-1], torch.ones(2, 3, dtype=found.dtype))
    assert (found[:-1].abs() < 0.999).all()


def test_own_gradients_are_the_closed_form_with_the_gradient_of_each_block(clip, images, targets):
    found = variant_maps(clip, images, targets, "own gradients")
    for i, image in enumerate(images):
        for k, target in enumerate(targets):
            blocks = recorded_blocks(copy.deepcopy(clip.visual), image, cosine(target))
            expected, weight = 0, 1
            for attention, gradient, *_ in reversed(blocks):
                row = (attention[:, 0] * gradient[:, 0]).relu().mean(0)
                expected, weight = expected + weight * row, weight * (1 + row[0])
            torch.testing.assert_close(found[i, k].flatten(), expected[1:], rtol=1e-9, atol=0)


def test_exchanging_heads_changes_earlier_blocks_alone(clip, images, targets):
    found = variant_maps(clip, images, targets, "other heads")
    last_grad = relevance_maps(clip, images, targets, "last grad")
    assert not torch.allclose(found, last_grad, rtol=1e-3)
    directions = F.normalize(targets, dim=-1).expand(2, -1, -1)
    from_the_last = [
        one.explain(encoder_of(clip), images, directions, 3)
        for one in (VARIANTS["other heads"], METHODS["last grad"])
    ]
    assert torch.equal(*from_the_last)


def test_intervals_are_of_the_mean():
    low, high = interval(np.array([1.0, 1.0, 1.0]))
    assert low == high == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "no sample"), ([0.5, np.nan], "samples hold NaN"), ([np.inf], "samples hold NaN")],
)
def test_there_is_no_interval_of_nothing_or_of_nan(values, message):
    with pytest.raises(ValueError, match=message):
        interval(np.array(values))


# The command


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    """Two pictures with masks, and one without."""
    images = Path(__file__).parent.parent / "Images"
    for name in ("horse&sheep", "cat&dog"):
        shutil.copy(images / f"{name}.png", tmp_path)
        shutil.copytree(images / "masks" / name, tmp_path / "masks" / name)
    shutil.copy(images / "chelsea.png", tmp_path)
    return tmp_path


def command(folder, *more):
    main([
        "--models", "ViT-emoji", "--images", str(folder), "--faithfulness", "1", "--sanity", "1",
        "--methods", "last grad", "centre",
        "--output", str(folder / "out"), "--runs", str(folder / "runs"), *more,
    ])  # fmt: skip


def test_masks_are_cut_as_pictures_are_by_a_model_that_is_not_ours(monkeypatch):
    monkeypatch.setattr(evaluate, "MaskedFolder", lambda images, template, **sees: sees)
    squash = open_clip.image_transform(64, is_train=False, resize_mode="squash")
    theirs = SimpleNamespace(preprocess=squash, side=64, pixels=OPENAI)
    args = SimpleNamespace(format=None, images=Path("."), prompt=None)
    assert evaluate.folder_of(theirs, args, 1)["preprocessing"].resize_mode == "squash"


def test_a_folder_of_pictures_with_masks_is_measured(folder):
    command(folder)
    rows = rows_of(folder / "out" / "localisation.csv")
    assert {row["method"] for row in rows} == {"last grad", "centre"}
    assert {row["pictures"] for row in rows if row["objects"] == "all"} == {"2"}
    assert {path.name for path in (folder / "out").glob("*.png")} >= {
        "ViT-emoji_localisation.png",
        "ViT-emoji_sanity.png",
    }
    (pointing,) = (
        row
        for row in rows
        if (row["method"], row["measure"], row["objects"]) == ("last grad", "pointing", "all")
    )
    assert float(pointing["mean"]) >= 0.5
    against = rows_of(folder / "out" / "against.csv")
    found = {(row["method"], row["rival"], row["than"]) for row in against}
    assert found == {("last grad", "best baseline", "centre")}
    rivals = {row["against"] for row in rows_of(folder / "out" / "last_grad_against.csv")}
    assert rivals == {"other heads", "own gradients"}
    places = {row["lies on"] for row in rows_of(folder / "out" / "signs.csv")}
    assert places == {"the object", "other objects", "the background"}


def test_a_folder_without_masks_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pictures with masks"):
        command(tmp_path)


@pytest.fixture(scope="module")
def small_models(tmp_path_factory):
    """Files of a small ViT and a small ResNet."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("vit", small_vit()), ("resnet", small_resnet())):
        path = folder / f"{name}.safetensors"
        heads = "2, 2" if name == "vit" else "4, 2"
        save_file(model.state_dict(), path, metadata={"activation": "quickgelu", "heads": heads})
    return {name: str(folder / f"{name}.safetensors") for name in ("vit", "resnet")}


@pytest.fixture
def small_folder(tmp_path):
    """Three pictures of noise: a horse, a sheep, and a horse and a dog."""
    for number, names in enumerate((("horse",), ("sheep",), ("horse", "dog"))):
        add_picture(tmp_path / "pictures", f"p{number}", names)
    return tmp_path / "pictures"


def add_picture(folder, name, objects):
    (folder / "masks" / name).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(name)).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    for place, label in enumerate(objects):
        mask = np.zeros((64, 64), np.uint8)
        mask[8:40, 30 * place : 30 * place + 20] = 255
        Image.fromarray(mask).save(folder / "masks" / name / f"{label}.png")


def measure(model, folder, *more, methods=("gradcam", "centre"), figures=False):
    """Tables of a small model on a folder: their rows by name."""
    arguments = [
        "--models", model, "--images", str(folder), "--faithfulness", "1", "--sanity", "1",
        "--output", str(folder.parent / "out"), "--runs", str(folder.parent / "runs"),
        "--methods", *methods, *more,
    ]  # fmt: skip
    with nullcontext() if figures else patch.object(evaluate, "draw_all"):
        main(arguments)
    return {path.stem: rows_of(path) for path in (folder.parent / "out").glob("*.csv")}


def test_a_method_may_be_measured_on_fewer_pictures_of_a_batch(small_models, tmp_path, monkeypatch):
    monkeypatch.setitem(FEWER, "gradcam", 2)
    counts = ["--scenes", "8", "--faithfulness", "3", "--sanity", "1"]
    places = ["--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    methods = ["--methods", "last grad", "gradcam"]
    with patch.object(evaluate, "draw_all"):
        main(["--models", small_models["vit"], *counts, *places, *methods])
    rows = rows_of(tmp_path / "out" / "faithfulness.csv")
    found = {(row["method"], row["pictures"]) for row in rows}
    assert found == {("last grad", "3"), ("gradcam", "2")}
    rows = rows_of(tmp_path / "out" / "last_grad_against.csv")
    every = {(row["against"], row["pictures"]) for row in rows if row["objects"] == "all"}
    assert every == {("gradcam", "4"), ("other heads", "8"), ("own gradients", "8")}


def test_it_goes_on_where_it_was_stopped(small_models, small_folder, monkeypatch):
    measured = []
    localisation = Study.localisation

    def counted(self, name, pictures):
        measured.append(name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return localisation(self, name, pictures)

    monkeypatch.setattr(Study, "localisation", counted)
    arguments = (small_models["vit"], small_folder)
    methods = ["last grad", "centre"]
    with pytest.raises(KeyboardInterrupt):
        measure(*arguments, methods=methods)
    assert [path.name for path in small_folder.parent.glob("runs/*/*")] == [
        "localisation, last grad.safetensors"
    ]
    measure(*arguments, methods=methods)
    measure(*arguments, methods=methods)
    assert measured == ["last grad", "centre", "centre", "other heads", "own gradients"]


def test_other_settings_are_measured_anew(small_models, small_folder):
    measure(small_models["vit"], small_folder)
    measure(small_models["vit"], small_folder, "--prompt", "an emoji of a {}")
    assert len(list((small_folder.parent / "runs").iterdir())) == 2


def test_changed_masks_are_measured_anew(small_models, small_folder):
    first = measure(small_models["vit"], small_folder)
    assert measure(small_models["vit"], small_folder) == first
    for path in small_folder.glob("masks/*/*.png"):
        Image.fromarray(255 - np.array(Image.open(path))).save(path)
    assert measure(small_models["vit"], small_folder)["localisation"] != first["localisation"]


def test_a_picture_more_is_measured_with_the_others(small_models, small_folder):
    measure(small_models["vit"], small_folder)
    add_picture(small_folder, "another", ["cow"])
    rows = measure(small_models["vit"], small_folder)["localisation"]
    assert {row["pictures"] for row in rows if row["objects"] == "all"} == {"4"}


def test_one_picture_is_enough(small_models, tmp_path):
    add_picture(tmp_path / "pictures", "p", ["horse", "dog"])
    methods = ["last grad", "centre"]
    tables = measure(small_models["vit"], tmp_path / "pictures", methods=methods, figures=True)
    assert {row["pictures"] for row in tables["localisation"]} == {"1"}


def test_where_nothing_is_absent_there_is_no_table_of_presence(small_models, tmp_path, capsys):
    for name in ("a", "b"):
        add_picture(tmp_path / "pictures", name, ["horse", "dog"])
    tables = measure(small_models["vit"], tmp_path / "pictures")
    assert "localisation" in tables
    assert "presence" not in tables
    assert "presence: every picture shows every object" in capsys.readouterr().err


def test_what_is_left_out_is_told(small_models, small_folder, capsys):
    (small_folder / "masks" / "nobody").mkdir()
    wide = Image.new("RGB", (192, 64))
    wide.save(small_folder / "p1.png")
    mask = np.zeros((64, 192), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(small_folder / "masks" / "p1" / "sheep.png")
    tables = measure(small_models["vit"], small_folder)
    assert {row["pictures"] for row in tables["localisation"] if row["objects"] == "all"} == {"2"}
    told = capsys.readouterr().err
    assert "1 (masks/nobody): masks without a picture" in told
    assert "1 (p1/sheep.png): outside of the middle square" in told


@pytest.mark.parametrize("methods", [["gradcam", "centre"], ["centre", "random"], ["all grads"]])
def test_what_was_not_measured_has_no_table_and_no_figure(small_models, small_folder, methods):
    out = small_folder.parent / "out"
    out.mkdir()
    of_last_grad = {"last_grad", "last_grad_against", "variants"}
    for name in of_last_grad:  # of an earlier run
        (out / f"{name}.csv").touch()
    (out / "vit_cost.png").touch()
    tables = measure(small_models["vit"], small_folder, methods=methods, figures=True)
    assert not of_last_grad & set(tables)
    assert {row["method"] for row in tables["localisation"]} == set(methods)
    figures = {path.stem.removeprefix("vit_") for path in out.glob("vit_*.png")}
    assert figures >= {"localisation", "faithfulness", "sanity"}
    assert "last_grad" not in figures
    assert ("cost" in figures) == (methods != ["centre", "random"])


def test_a_resnet_is_measured_beside_a_vit(small_models, small_folder):
    names = ["last grad", "GradCAM", "edges"]
    more = ["--models", *small_models.values()]
    rows = measure("", small_folder, *more, methods=names)["localisation"]
    assert {(row["model"], row["method"]) for row in rows} == {
        ("vit", "last grad"), ("vit", "edges"), ("resnet", "GradCAM"), ("resnet", "edges"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "gradcam", "lastgrad"], "unknown methods lastgrad; there are direct,"),
        (["--methods", "GradCAM"], "unknown methods GradCAM"),
        (["--scenes", "0"], "--scenes: must be a whole number, 1 or more; got '0'"),
        (["--faithfulness", "-1"], "--faithfulness: must be a whole number"),
        (["--sanity", "some"], "--sanity: must be a whole number"),
        (["--prompt", "a thing"], "--prompt: must have {} where"),
    ],
)
def test_options_are_checked_before_anything_is_measured(
    small_models, small_folder, capsys, options, message
):
    with pytest.raises(SystemExit):
        measure(small_models["vit"], small_folder, *options)
    assert message in capsys.readouterr().err
    assert not (small_folder.parent / "runs").exists()


def test_models_of_one_name_are_refused_before_anything_is_measured(
    small_models, small_folder, tmp_path
):
    (tmp_path / "other").mkdir()
    other = shutil.copy(small_models["resnet"], tmp_path / "other" / "vit.safetensors")
    for second in (small_models["vit"], str(other)):
        with pytest.raises(ValueError, match=r"both be called vit: name each model once"):
            measure("", small_folder, "--models", small_models["vit"], second)
    assert not (tmp_path / "runs").exists()


def test_a_damaged_file_names_itself_and_the_remedy(small_models, small_folder):
    measure(small_models["vit"], small_folder)
    (damaged,) = (small_folder.parent / "runs").glob("vit-*/sanity.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"sanity\.safetensors is damaged .*: delete it"):
        measure(small_models["vit"], small_folder)
    damaged.unlink()
    measure(small_models["vit"], small_folder)


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ([], "repository/results/evaluation"),
        (["--scenes", "1000", "--runs", "elsewhere"], "repository/results/evaluation"),
        (["--scenes", "20"], "evaluation-scenes"),
        (["--models", "RN-emoji"], "evaluation-scenes"),
        (["--images", "my/pictures"], "evaluation-pictures"),
        (["--images", "my/pictures", "--output", "mine"], "mine"),
    ],
)
def test_only_the_default_measurement_goes_where_the_repository_keeps_its_own(
    options, folder, monkeypatch, tmp_path
):
    written = []
    monkeypatch.chdir(tmp_path)
    shipped = tmp_path / "repository" / "results" / "evaluation"
    monkeypatch.setattr("evaluation.output.SHIPPED", shipped)
    monkeypatch.setattr(evaluate, "explainers", lambda names: [])
    monkeypatch.setattr(evaluate, "write_tables", lambda _, folder: written.append(folder))
    monkeypatch.setattr(evaluate, "draw_all", lambda _, folder: written.append(folder))
    main(options)
    assert {path.resolve() for path in written} == {tmp_path / folder}


def test_a_full_disk_leaves_the_old_tables(small_models, small_folder, monkeypatch):
    measure(small_models["vit"], small_folder)
    out = small_folder.parent / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def half(path, text, **_):
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        measure(small_models["vit"], small_folder)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_other_code_is_measured_anew_but_other_figures_are_not(monkeypatch, tmp_path):
    monkeypatch.setattr(studies, "CODE", tmp_path)
    digests = []
    for name, content in (("saliency.py", "1"), ("saliency.py", "2"), ("plots.py", "3")):
        (tmp_path / name).write_text(content)
        digests.append(studies.source_digest())
    assert digests[0] != digests[1] == digests[2]


def test_means_are_over_pictures_not_over_objects():
    columns = {"picture": np.array([7, 7, 9]), "pointing": np.array([1.0, 0.0, 1.0])}
    numbers, values = by_picture(columns, "pointing")
    assert numbers.tolist() == [7, 9]
    assert values.tolist() == [0.5, 1]


def test_gains_are_of_the_pictures_that_both_have_and_less_deletion_is_better():
    ours = {"picture": np.array([1, 2, 3]), "AP": np.array([0.5, 0.5, 0.5])}
    theirs = {"picture": np.array([3, 2]), "AP": np.array([0.25, 0.75])}
    assert gain(ours, theirs, "AP").tolist() == [-0.25, 0.25]
    deletions = [{**one, "deletion": one["AP"]} for one in (ours, theirs)]
    assert gain(*deletions, "deletion").tolist() == [0.25, -0.25]


def test_a_picture_has_the_same_number_in_a_smaller_set():
    def batches(each):
        for objects in (1, 2):
            for count in (each // 2, each - each // 2):
                blank = torch.zeros(count, objects, 2, 2)
                yield SceneBatch(torch.zeros(count, 3, 2, 2), blank[..., 0, 0].long(), blank > 0)

    many, few = (torch.cat([n for n, _ in numbered(batches(each))]).tolist() for each in (10, 4))
    assert len(set(many)) == 20
    assert few == many[:4] + many[10:14]


def test_where_a_map_lies_by_hand():
    masks = torch.tensor([[[True, True, False, False]], [[False, False, True, False]]])
    maps = torch.tensor([[[3.0, 1.0, 2.0, 2.0]], [[0.0, -1.0, 0.0, 0.0]]])
    found = where_it_lies(maps, masks)
    assert found["the object"].tolist() == [0.5, 0]
    assert found["other objects"].tolist() == [0.25, 0]
    assert found["the background"].tolist() == [0.25, 0]  # the second is nowhere above zero
