"""What the page computes is what `relevance_maps` and `text_relevance` say.

First the closed forms against the methods, in float64; then the graphs that are written of them, in
half precision and run by onnxruntime, against the model of the same weights. The embedded models'
graphs are compared in `test_page.py`, as `make page` writes them.
"""

import copy

import pytest
import torch
import torch.nn.functional as F

from clip_ import tokenize
from model import ACTIVATIONS, CLIP
from page.closed_forms import Forms, ResNetForms, TextForms, ViTForms
from saliency import direction_maps
from small_clip import TEXT, small_resnet, small_vit, stirred
from text_saliency import text_relevance

EXACT, SINGLE = 1e-11, 1e-5
TEXTS = ["a horse and a sheep", "grass", "the sky above a flag"]  # every word is a token


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors.detach(), dim=-1)


def far(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, of the largest value."""
    assert found.shape == wanted.shape
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def vit_with(activation: str) -> CLIP:
    torch.manual_seed(0)
    odd = {"vision_heads": 4, "vision_mlp_width": 80, "activation": activation}
    return stirred(CLIP(16, 32, 2, 64, 8, vocab_size=49408, **TEXT, **odd))


def answers(forms: Forms, answer: tuple) -> dict[str, torch.Tensor]:
    return dict(zip(["scores", "features", *forms.methods], answer, strict=True))


def require_features(answer: dict, features, directions, tolerance: float) -> None:
    assert far(answer.pop("features"), unit(features)) < tolerance
    assert far(answer.pop("scores"), 100 * unit(features) @ directions.T) < tolerance


def require_maps(answer: dict, clip: CLIP, images, directions, tolerance: float) -> None:
    require_features(answer, clip.encode_image(images), directions, tolerance)
    assert answer
    for method, found in answer.items():
        assert far(found, direction_maps(clip, images, directions, method)) < tolerance, method


def require_words(answer: dict, clip: CLIP, directions, tolerance: float) -> None:
    require_features(answer, clip.encode_text(tokenize(TEXTS)), directions, tolerance)
    assert answer
    for method, found in answer.items():
        wanted = text_relevance(clip, TEXTS, directions, method)
        for of_tokens, words in zip(found, wanted, strict=True):
            of_words = of_tokens[:, 1 : 1 + len(words.words)]
            assert far(of_words, words.relevance) < tolerance, method


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_closed_forms_of_a_vit_are_its_maps(activation):
    clip = vit_with(activation).double()
    forms, images = ViTForms(clip.visual), noise(2, 3, 32, 32)
    directions = unit(noise(3, 16)) * torch.tensor([[1], [0.3], [7]])
    require_maps(answers(forms, forms(images, directions)), clip, images, directions, EXACT)


def test_closed_forms_of_a_resnet_are_its_maps():
    clip = small_resnet().double()
    forms, images, directions = ResNetForms(clip.visual), noise(2, 3, 64, 64), unit(noise(3, 16))
    require_maps(answers(forms, forms(images, directions)), clip, images, directions, EXACT)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_closed_forms_of_texts_are_the_relevance_of_their_words(activation):
    clip = vit_with(activation).double()
    forms, directions = TextForms(clip), unit(noise(3, 16))
    for tokens in (tokenize(TEXTS), tokenize(TEXTS)[:, :7]):
        require_words(answers(forms, forms(tokens, directions)), clip, directions, EXACT)


class Graph:
    """A graph that was written, in onnxruntime."""

    def __init__(self, path):
        self.session = onnxruntime().InferenceSession(path)

    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        names = [one.name for one in self.session.get_outputs()]
        found = self.session.run(names, given)
        return {name: torch.from_numpy(one) for name, one in zip(names, found, strict=True)}


def onnxruntime():
    pytest.importorskip("onnxscript", reason="requirements-page.txt is not installed")
    return pytest.importorskip("onnxruntime", reason="requirements-page.txt is not installed")


def rounded(clip: CLIP) -> CLIP:
    """Its weights as half precision has them."""
    return copy.deepcopy(clip).half().float()


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    onnxruntime()
    from page.export import export

    clip, folder = rounded(vit_with("gelu")), tmp_path_factory.mktemp("vit")
    export(clip, folder)
    return clip, folder


def test_the_graph_of_a_vit_explains_any_number_of_images_and_targets(vit):
    clip, folder = vit
    graph = Graph(folder / "image.onnx")
    for images, targets in ((1, 1), (3, 7)):
        pictures, directions = noise(images, 3, 32, 32).float(), unit(noise(targets, 16)).float()
        answer = graph(images=pictures, directions=directions)
        require_maps(answer, clip, pictures, directions, SINGLE)


def test_the_graph_of_texts_tells_features_and_words_at_any_length(vit):
    clip, folder = vit
    graph, directions = Graph(folder / "text.onnx"), unit(noise(4, 16)).float()
    for tokens in (tokenize(TEXTS), tokenize(TEXTS)[:, :9]):
        require_words(graph(tokens=tokens, directions=directions), clip, directions, SINGLE)
    assert graph(tokens=tokens[:1], directions=directions[:1])["path"].shape == (1, 1, 9)


def test_graphs_hold_their_weights_once_in_half_precision(vit):
    clip, folder = vit
    for name, part in (("image", clip.visual), ("text", clip)):
        weights = sum(one.numel() for one in part.parameters())
        weights -= sum(one.numel() for one in clip.visual.parameters()) * (name == "text")
        assert (folder / f"{name}.onnx").stat().st_size < 2 * weights + 400_000


def test_the_graph_of_a_resnet_explains_any_number_of_images_and_targets(tmp_path):
    onnxruntime()
    from page.export import export_image

    clip = rounded(small_resnet())
    export_image(clip, tmp_path)
    pictures, directions = noise(3, 3, 64, 64).float(), unit(noise(5, 16)).float()
    answer = Graph(tmp_path / "image.onnx")(images=pictures, directions=directions)
    require_maps(answer, clip, pictures, directions, SINGLE)


def test_what_cannot_be_exported_is_refused(tmp_path):
    onnxruntime()
    from page.export import export

    clip = small_vit()
    with pytest.raises(TypeError, match=r"a CLIP of clip_.load; got model\.Vision"):
        export(clip.visual, tmp_path)
    with pytest.raises(ValueError, match=r"float16 on cpu: model.float\(\).cpu\(\) is right"):
        export(copy.deepcopy(clip).half(), tmp_path)
    clip.visual.transformer.resblocks[0].mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="something was done to this model"):
        export(clip, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_half_precision_cannot_hold_stay_as_they_are():
    onnxruntime()
    from onnx import helper, numpy_helper

    from page.export import SMALL, halve

    small, large = torch.ones(SMALL).numpy(), torch.full([SMALL], 1e5).numpy()
    weights = [numpy_helper.from_array(small, "small"), numpy_helper.from_array(large, "large")]
    graph = helper.make_graph([], "weights", [], [], weights)
    halve(graph)
    held = [numpy_helper.to_array(one) for one in graph.initializer]
    assert [one.dtype for one in held] == ["float16", "float32"]
    assert (held[1] == large).all()
