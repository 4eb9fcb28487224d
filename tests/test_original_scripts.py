"""Code written for the original's modules runs here, with its imports and positional arguments.

As in the original's notebooks: figures by `plt.subplot`, a call, `plt.axis`, `plt.title` and
`plt.savefig`. Only the names of the models differ, since its weights need a network.
"""

import copy
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

IMAGES = Path(__file__).parent.parent / "Images"


@pytest.fixture(autouse=True)
def fresh_figure():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def models():
    from clip_ import load

    device = "cpu"
    vit, preprocess = load("ViT-emoji", device=device, jit=False)
    rn, _ = load("RN-emoji", device=device, jit=False)
    return vit, rn, preprocess, device


def drawn_panels() -> list[np.ndarray]:
    return [axis.images[0].get_array() for axis in plt.gcf().axes]


def test_a_row_of_subplots_with_titles(models, tmp_path):
    from clip_ import similarity_score, tokenize
    from pytorch_grad_cam import GradCAM
    from rn_cam import interpret_rn, interpret_rn_overlapped
    from vit_cam import interpret_vit, interpret_vit_overlapped

    model_vit, model_rn, preprocess, device = models
    p_image = preprocess(Image.open(IMAGES / "horse&sheep.png")).unsqueeze(0).to(device)
    text_features = model_vit.encode_text(tokenize("a horse").to(device))
    rn_features = model_rn.encode_text(tokenize("a horse").to(device))

    plt.figure(figsize=(20, 20))
    plt.subplot(1, 4, 1)
    interpret_vit(
        p_image.type(model_vit.dtype), text_features, model_vit.visual, device, "all grads", False
    )
    plt.axis("off")
    plt.title("ViT", size=15, y=-0.20)
    plt.subplot(142)
    interpret_vit_overlapped(p_image, text_features, model_vit.visual, device)
    plt.subplot(143)
    interpret_rn(p_image, rn_features, model_rn.visual, GradCAM, device, neg_saliency=True)
    plt.subplot(144)
    interpret_rn_overlapped(p_image, rn_features, model_rn.visual, GradCAM, device)
    plt.tight_layout()
    plt.savefig(tmp_path / "ViT_a horse_horse&sheep.png", bbox_inches="tight")

    panels = drawn_panels()
    assert [panel.shape for panel in panels] == [(224, 224, 3)] * 4
    assert all(np.ptp(panel) > 100 for panel in panels)
    assert plt.gcf().axes[0].get_title() == "ViT"
    assert Image.open(tmp_path / "ViT_a horse_horse&sheep.png").width > 500
    score = similarity_score(model_vit, p_image, text_features)
    assert score.ndim == 0
    assert score.item() > 10


def test_words_of_a_sentence(models):
    from clip_ import tokenize
    from pytorch_grad_cam import GradCAM
    from rn_cam import interpret_perword_rn
    from vit_cam import interpret_perword_vit

    model_vit, model_rn, preprocess, device = models
    p_image = preprocess(Image.open(IMAGES / "cow&sheep.png")).unsqueeze(0).to(device)
    text = "a cow and a sheep"
    subplot = 191
    for w, word in enumerate(text.split()[1:3]):
        plt.subplot(subplot + 2 * w)
        interpret_perword_vit(p_image, text, model_vit, tokenize, device, masked_word=word)
        plt.subplot(subplot + 2 * w + 1)
        interpret_perword_rn(p_image, text, model_rn, tokenize, GradCAM, device, masked_word=word)
    assert len(drawn_panels()) == 4


def test_blocks_of_a_vit(models):
    from clip_ import tokenize
    from vit_cam import vit_block_vis

    model_vit, _, preprocess, device = models
    p_image = preprocess(Image.open(IMAGES / "horse&dog.png")).unsqueeze(0).to(device)
    features = model_vit.encode_text(tokenize("a dog"))
    for block in range(6):
        plt.subplot(2, 6, block + 1)
        score = vit_block_vis(p_image, features, model_vit.visual, block, device, False, False)
        plt.title(f"{score.item():.2f}")
    assert len(drawn_panels()) == 6


def test_mean_maps_of_a_folder(models):
    from clip_ import tokenize
    from pytorch_grad_cam import LayerCAM
    from rn_cam import rn_relevance
    from vit_cam import vit_relevance

    model_vit, model_rn, preprocess, device = models
    attentions = []
    for name in ("faces.png", "cat&dog.png"):
        p_image = preprocess(Image.open(IMAGES / name)).unsqueeze(0).to(device)
        for text in ("a happy face", "a sad face"):
            relevance, _ = vit_relevance(
                p_image, model_vit.encode_text(tokenize(text)), model_vit.visual, device, "gradcam"
            )
            attentions.append(np.expand_dims(relevance, axis=0))
            relevance, _ = rn_relevance(
                p_image, model_rn.encode_text(tokenize(text)), model_rn.visual, LayerCAM, device
            )
            attentions.append(np.expand_dims(relevance, axis=0))
    assert np.mean(np.concatenate(attentions), axis=0).shape == (224, 224)


def test_emotions_of_batches(models, tmp_path):
    import pickle

    from clip_ import similarity_score
    from pickle_loader import Pickle_data_loader
    from vit_cam import interpret_vit

    model_vit, _, _, device = models
    (tmp_path / "wikiart").mkdir()
    for number in range(2):
        batch = {"image": torch.randn(40, 3, 224, 224), "label": torch.rand(40, 9)}
        with open(f"{tmp_path}/wikiart/batch{number}.bin", "wb") as file:
            pickle.dump(batch, file)
    (tmp_path / "ARTEMIS_EMOTIONS.json").write_text(json.dumps({"awe": [0.1] * 256}))
    emotion_dict = json.load(open(tmp_path / "ARTEMIS_EMOTIONS.json"))  # noqa: SIM115
    loader = Pickle_data_loader(str(tmp_path) + "/wikiart/", 40)
    image_list = torch.cat([batch["image"] for batch in loader], dim=0)
    assert len(image_list) == 40
    image = image_list[0].unsqueeze(0).to(device)
    for feature in emotion_dict.values():
        feature = torch.HalfTensor(feature).unsqueeze(dim=0).to(device)
        similarity_score(model_vit, image, feature).item()
        interpret_vit(image.type(model_vit.dtype), feature, model_vit.visual, device)
    assert len(drawn_panels()) == 1


def test_relevance_by_the_graph_as_the_notebook_of_transformer_mm_explainability_makes_it(models):
    """Chefer et al.'s CLIP example: attention and gradients of both towers, of the logit."""
    from clip_ import tokenize
    from saliency import relevance_maps

    model = copy.deepcopy(models[0]).double()
    image = models[2](Image.open(IMAGES / "horse&sheep.png")).unsqueeze(0)[..., 48:176, 16:144]
    texts = tokenize(["a horse", "a sheep on the grass"])
    logits_per_image, _ = model(image.repeat(2, 1, 1, 1), texts)
    one_hot = torch.zeros(2, 2, dtype=torch.float64).fill_diagonal_(1).requires_grad_(True)
    one_hot = torch.sum(one_hot * logits_per_image)
    model.zero_grad()

    def relevance(transformer):
        blocks = list(dict(transformer.resblocks.named_children()).values())
        tokens = blocks[0].attn_probs.shape[-1]
        rolled = torch.eye(tokens, dtype=blocks[0].attn_probs.dtype).expand(2, tokens, tokens)
        for block in blocks:
            grad = torch.autograd.grad(one_hot, [block.attn_probs], retain_graph=True)[0].detach()
            cam = block.attn_probs.detach()
            cam = (grad * cam).reshape(2, -1, tokens, tokens).clamp(min=0).mean(dim=1)
            rolled = rolled + torch.bmm(cam, rolled)
        return rolled

    found = relevance(model.visual.transformer)[:, 0, 1:].reshape(2, 1, 8, 8)
    words = relevance(model.transformer)[torch.arange(2), texts.argmax(dim=-1)]
    assert words[0, 1:3].min() > 0  # "a horse", after the start
    assert not words[0, 4:].any()  # after the end
    scale = model.logit_scale.exp()
    for one, text in zip(found, texts, strict=True):
        targets = model.encode_text(text[None])
        expected = relevance_maps(model, image, targets, "all grads", scale=scale)[0]
        torch.testing.assert_close(one, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("cmap", ["viridis", "cividis"])
def test_a_colour_map_for_colour_blind_readers_can_be_asked_for(models, cmap):
    from clip_ import tokenize
    from vit_cam import interpret_vit

    model_vit, _, preprocess, device = models
    p_image = preprocess(Image.open(IMAGES / "horse&sheep.png")).unsqueeze(0)
    features = model_vit.encode_text(tokenize("a horse"))
    jet = interpret_vit(p_image, features, model_vit.visual, device)
    safe = interpret_vit(p_image, features, model_vit.visual, device, cmap=cmap)
    assert (jet != safe).any()
    with pytest.raises(KeyError, match="rainbows"):
        interpret_vit(p_image, features, model_vit.visual, device, cmap="rainbows")
