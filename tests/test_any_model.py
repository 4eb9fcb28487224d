"""Models of open_clip, transformers and timm are explained as they are, each as its pooling asks.

The reference is the definition of each method, on whole matrices that ordinary autograd
differentiates in float64; and of CAMs, at the last stage.
"""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from autograd_oracle import (
    Case,
    assert_close,
    attention_by_hand,
    by_what_cls_reads,
    expected_maps,
    grad_cam,
    grids,
    on_grids,
    shares,
    unmasked,
)
from families import FAMILIES, similar_to_a_text
from methods import MASKING, METHODS, explaining
from model import build_model
from pytorch_grad_cam import CAMS
from recording.encoders import Encoder, encoder_of
from saliency import block_maps, methods, relevance_maps
from test_parity import transformers_layout
from vit_oracles import OF_PAIRS

ATTENDING = [name for name, family in FAMILIES.items() if family.pooling]
CONVOLVING = [name for name, family in FAMILIES.items() if not family.pooling]

# The others are compared with our network, of the same weights.
DEFINED = [*OF_PAIRS, "direct", "direct signed", "path", "rollout", "attention"]

every_family = pytest.mark.parametrize("name", FAMILIES)
every_attending_family = pytest.mark.parametrize("name", ATTENDING)


CASES: dict[str, Case] = {}


@pytest.fixture
def case(name) -> Case:
    """Only read it: it is that of all tests of its family."""
    if name not in CASES:
        CASES[name] = Case(FAMILIES[name])
    return CASES[name]


# Maps


@every_family
def test_features_are_those_of_the_library(case):
    with torch.no_grad():
        expected = similar_to_a_text(case.model, case.images)
    torch.testing.assert_close(F.normalize(case.features, dim=-1), expected)


@every_attending_family
@pytest.mark.parametrize("method", unmasked(METHODS))
def test_maps_are_what_the_definition_says(case, method):
    pooling = case.family.pooling
    if method in explaining(pooling):
        expected = expected_maps(case, method) if method in DEFINED else case.maps(method)
        assert_close(case.maps(method), expected)
    elif METHODS[method].ours_alone:
        with pytest.raises(ValueError, match=r"is for the ViTs of clip_\.load"):
            case.maps(method)
    else:
        read = {"average": "an average of tokens", "probe": "an attention pool"}[pooling]
        others = ", ".join(explaining(pooling))
        said = f"{method} does not .* read from {read}: the methods for it are {others}$"
        with pytest.raises(ValueError, match=said):
            case.maps(method)


@pytest.mark.parametrize("name", ["ViT-B-32", "EVA02-B-16", "timm, registers"])
@pytest.mark.parametrize("method", ["direct", "direct signed", "path"])
@pytest.mark.parametrize("start_block", [1, 2])
def test_what_cls_reads_from_a_block_on(case, method, start_block):
    relevance = by_what_cls_reads(*case.given(), method, start_block)
    expected = on_grids(relevance, grids(case.family, len(relevance)))
    assert_close(case.maps(method, start_block=start_block), expected)


@pytest.mark.parametrize("name", CONVOLVING)
def test_cams_of_convolutional_networks_are_of_the_last_stage(case):
    assert_close(case.maps("GradCAM"), grad_cam(case))


@every_family
def test_grid_and_pooling_are_found_out(case):
    encoder = encoder_of(case.model)
    maps = list(relevance_maps(encoder, case.images, case.targets))
    assert [tuple(one.shape[1:]) for one in maps] == grids(case.family, len(maps))
    assert encoder.pooling == case.family.pooling


@every_family
def test_methods_are_those_that_explain_the_model(case):
    encoder = Encoder(case.model, case.encoder.encode, preprocess=lambda _: case.one_picture())
    pooling = case.family.pooling
    assert methods(encoder) == (explaining(pooling) if pooling else CAMS | MASKING)


@every_family
def test_the_default_is_direct_where_one_token_is_read(case):
    wanted = {"average": "last grad", None: "GradCAM"}.get(case.family.pooling, "direct")
    encoder = encoder_of(case.model)
    for read in (None, case.family.pooling):  # before it is found out, and after
        assert encoder.pooling == read
        found = list(relevance_maps(encoder, case.images, case.targets))
        assert_close(found, case.maps(wanted))


@pytest.mark.parametrize("name", ["ViT-B-32", "SiglipModel"])
@pytest.mark.parametrize("method", ["last grad", "gradcam"])
def test_many_targets_take_no_more_runs_than_one(case, method):
    def runs(targets: int) -> int:
        calls = []
        with case.first_block().register_forward_hook(lambda *_: calls.append(1)):
            relevance_maps(case.model, case.images, case.targets[:1].expand(targets, -1), method)
        return len(calls)

    assert runs(20) == runs(1)


@pytest.mark.parametrize("name", ["ViT-L-14-CLIPA", "timm, two tokens"])
@pytest.mark.parametrize("method", unmasked(explaining("average")))
def test_parts_of_averages_are_put_together_in_order(case, method):
    targets = torch.cat([case.targets] * 7)
    found = relevance_maps(case.model, case.images, targets, method)
    each = relevance_maps(case.model, case.images, case.targets, method)
    assert_close(list(found), list(torch.cat([each] * 7, 1)))


@every_attending_family
def test_block_maps_are_the_mean_attention_of_what_is_read(case):
    with attention_by_hand() as attention:
        case.encoder.encode(case.images)
    if case.family.pooling == "probe":
        attention = attention[-1:]
    asks = shares(case.family, attention[-1].shape[-2])
    maps = block_maps(case.model, case.images, case.targets[:1])
    if isinstance(maps, Tensor):
        maps = maps.transpose(0, 1)
    rows = torch.stack([asks @ matrix.detach().mean(1) for matrix in attention], 1)
    expected = on_grids(rows, grids(case.family, len(rows)))
    assert_close(list(maps), [one.unsqueeze(1) for one in expected])


# Our network, of the same weights


def of_our_network(name: str) -> tuple[Case, nn.Module]:
    """A family, and ours with its weights."""
    case = Case(FAMILIES[name])
    activation = "quickgelu" if name.endswith("quickgelu") else "gelu"
    heads = {"ViT-H-14": (2, 1)}.get(name)
    ours = build_model(case.model.state_dict(), activation=activation, heads=heads)
    return case, ours.double()


def maps_of(model: nn.Module, case: Case, method: str) -> list[Tensor]:
    return list(relevance_maps(model, case.images, case.targets, method))


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-H-14"])
@pytest.mark.parametrize("method", unmasked(explaining("CLS")))
def test_maps_of_a_vit_are_those_of_our_network(name, method):
    case, ours = of_our_network(name)
    assert_close(case.maps(method), maps_of(ours, case, method))


@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "FullGrad", "EigenCAM"])
def test_maps_of_a_resnet_are_those_of_our_network(method):
    case, ours = of_our_network("RN50")
    assert_close(case.maps(method), maps_of(ours, case, method))


@pytest.mark.parametrize("method", explaining("CLS"))
def test_maps_of_transformers_are_those_of_our_network(method):
    case, ours = of_our_network("ViT-B-32")
    tower = {"hidden_act": "gelu", "num_hidden_layers": 3}
    vision = tower | {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2}
    text = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
    text |= {"num_hidden_layers": 1, "max_position_embeddings": 8, "vocab_size": 100}
    config = transformers.CLIPConfig(
        vision_config=vision | {"image_size": 64, "patch_size": 16},
        text_config=text
        | {"num_hidden_layers": 1, "max_position_embeddings": 8, "vocab_size": 100},
        projection_dim=512,
    )
    theirs = transformers.CLIPModel(config).double().eval()
    theirs.load_state_dict(transformers_layout(ours.state_dict()))
    assert_close(maps_of(theirs, case, method), maps_of(ours, case, method))
