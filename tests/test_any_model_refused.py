"""What cannot be explained rightly is refused with a sentence that says what would be right."""

import pytest
import timm
import torch
from torch import Tensor, nn

from autograd_oracle import Case, assert_close, expected_maps
from families import FAMILIES, Family, of_timm, two_pictures
from methods import MASKING, explaining
from pytorch_grad_cam import CAMS
from recording.encoders import Encoder, from_module
from saliency import methods, relevance_maps
from vit_oracles import OF_PAIRS

STEP_BY_STEP = (
    "this model computes its attention step by step, where it cannot be read; let it call the "
    r"fused kernel: model.set_attn_implementation\('sdpa'\) in transformers, and, before timm "
    r"makes a model, timm.layers.set_fused_attn\(True\)"
)


def explain(model, images: Tensor | None = None, method: str | None = None) -> Tensor:
    images = two_pictures(64, 64) if images is None else images
    return relevance_maps(model, images, torch.ones(1, 64), method)


# What stands elsewhere than blocks, pools and patches usually do


class Patched(nn.Module):
    """Patches of 16 pixels, `before` and `behind` them tokens of its own, through some blocks."""

    def __init__(self, before: int = 0, behind: int = 0):
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 16, 16)
        self.before = nn.Parameter(torch.randn(1, before, 64))
        self.behind = nn.Parameter(torch.randn(1, behind, 64))
        layers = [nn.TransformerEncoderLayer(64, 2, 64, batch_first=True) for _ in range(3)]
        self.layers = nn.ModuleList(layers)
        self.eval()

    def embed(self, images: Tensor) -> Tensor:
        own = [token.expand(len(images), -1, -1) for token in (self.before, self.behind)]
        return torch.cat([own[0], self.patches(images).flatten(2).mT, own[1]], 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


class OneApart(Patched):
    """The last block is not in the list of the others."""

    def __init__(self):
        super().__init__(before=1)
        self.last = self.layers[-1]
        self.layers = self.layers[:-1]

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)[:, 0]


class Resampled(Patched):
    """Queries of its own read the patches before the blocks."""

    def __init__(self):
        super().__init__(before=4)
        self.pool = nn.MultiheadAttention(64, 2, batch_first=True)

    def embed(self, images: Tensor) -> Tensor:
        x = super().embed(images)
        return self.pool(x[:, :4], x, x)[0]


def test_a_block_apart_from_the_others_may_be_a_pool():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="attention 2 of this model is outside of the list"):
        explain(from_module(OneApart()))


def test_blocks_behind_a_pool():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="attention behind an attention pool"):
        explain(from_module(Resampled()))


def test_tokens_behind_the_patches_are_not_taken_for_patches():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"the last 16 of 19 tokens are not the patches"):
        explain(from_module(Patched(before=1, behind=2)))
    with pytest.raises(ValueError, match=r"the last 16 of 19 tokens are not the patches"):
        explain(from_module(Patched(before=1, behind=2)), method="all grads")
    assert explain(from_module(Patched(before=3))).shape == (2, 1, 4, 4)


def test_blocks_that_do_more_than_add_are_explained_by_path():
    model = Patched(before=3)  # normalises the stream behind each block
    default = explain(from_module(model))
    with pytest.raises(ValueError, match=r"need blocks that add .*: path takes it"):
        explain(from_module(model), method="direct")
    torch.testing.assert_close(default, explain(from_module(model), method="path"))
    first, *_ = known = methods(Encoder(model, model.__call__, size=(64, 64)))
    assert first == "path"
    assert not {"direct", "direct signed"} & known.keys()


# Attention that is not seen


def test_eager_attention_of_transformers():
    model = FAMILIES["CLIPModel"].model()
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=STEP_BY_STEP):
        relevance_maps(model, two_pictures(64, 64), torch.ones(1, 32))
    model.set_attn_implementation("sdpa")
    relevance_maps(model, two_pictures(64, 64), torch.ones(1, 32))


def test_attention_that_timm_does_not_fuse():
    timm.layers.set_fused_attn(False)
    try:
        model = of_timm("vit_base_patch16_224")()
    finally:
        timm.layers.set_fused_attn(True)
    with pytest.raises(ValueError, match=STEP_BY_STEP):
        explain(model)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_within_windows(fused):
    options = {"depths": (1, 1), "num_heads": (2, 4), "embed_dim": 32, "window_size": 4}
    timm.layers.set_fused_attn(True, experimental=fused)
    try:
        model = timm.create_model(
            "swin_tiny_patch4_window7_224", num_classes=0, img_size=64, **options
        )
    finally:
        timm.layers.set_fused_attn(True)
    said = "windows" if not fused else r"attends to 16 tokens of 16 images, not to 16 tokens of 1"
    with pytest.raises(ValueError, match=said):
        explain(model)


def test_attention_that_is_dropped_at_random():
    model = from_module(Dropping())
    with pytest.raises(ValueError, match=r"drops attention at random: call model.eval\(\) first"):
        explain(model)


class Dropping(nn.Module):
    """A block that drops attention in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 16, 16)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT.unsqueeze(1)
        attend = nn.functional.scaled_dot_product_attention
        return attend(tokens, tokens, tokens, dropout_p=0.5).mean((1, 2))


# No cells to show


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 64 * 64, 64)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def test_a_network_without_attention_and_without_maps_of_cells():
    with pytest.raises(ValueError, match="no module of this model returns a map of cells"):
        explain(from_module(Flat()))


def test_a_network_that_mixes_tokens_otherwise():
    model = timm.create_model("mixer_s32_224", num_classes=0, img_size=64)
    with pytest.raises(ValueError, match="behind its last map of cells, blocks mix tokens"):
        explain(model)


class OwnKernel(nn.Module):
    """A block whose attention is no function of PyTorch, and no softmax."""

    def __init__(self, in_tuples: bool):
        super().__init__()
        self.in_tuples = in_tuples

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor]:
        scores = (tokens @ tokens.mT).exp()
        mixed = scores / scores.sum(-1, keepdim=True) @ tokens
        return (mixed,) if self.in_tuples else mixed


class OfOwnKernels(nn.Module):
    def __init__(self, in_tuples: bool):
        super().__init__()
        self.in_tuples = in_tuples
        self.patches = nn.Conv2d(3, 64, 16, 16)
        self.blocks = nn.ModuleList([OwnKernel(in_tuples)])

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        mixed = self.blocks[0](tokens)
        return (mixed[0] if self.in_tuples else mixed).mean(1)


@pytest.mark.parametrize("in_tuples", [False, True])
def test_attention_by_a_kernel_of_its_own_is_not_taken_for_a_convolutional_network(in_tuples):
    with pytest.raises(ValueError, match="neither attends in a way that can be read"):
        explain(from_module(OfOwnKernels(in_tuples)))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.Conv2d(3, 64, 16, 16)
        self.scale = nn.LayerNorm(64)

    def forward(self, images: Tensor) -> Tensor:
        return self.scale(self.cells(images).movedim(1, -1)).mean((1, 2))


def test_maps_with_channels_last():
    with pytest.raises(
        ValueError, match=r"\[1, 4, 4, 64\], is not \[image, channel, row, column\]"
    ):
        explain(from_module(ChannelsLast()))


# A grid that cannot be told


class Patches(nn.Module):
    """Tokens of patches that no convolution makes."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Linear(3 * 16 * 16, 64)
        block = nn.TransformerEncoderLayer(64, 2, 64, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.unfold(images, 16, stride=16).mT
        return self.blocks(self.patches(patches)).mean(1)


def test_a_grid_that_cannot_be_told_is_asked_for():
    torch.manual_seed(0)
    model = Patches().eval()
    with pytest.raises(ValueError, match=r"which of 24 tokens are patches .* give an Encoder with"):
        explain(from_module(model), two_pictures(64, 96))
    encoder = from_module(model.double(), grid=(4, 6))
    case = Case(Family(Patches, (4, 6), "average", (0, None), (64, 96)), encoder)
    for method in OF_PAIRS:
        assert_close(case.maps(method), expected_maps(case, method))


# Objects and methods


@pytest.mark.parametrize("model", [None, "ViT-B/32", Flat(), object()])
def test_other_objects(model):
    with pytest.raises(
        TypeError, match="a model of open_clip, transformers or timm, or an Encoder"
    ):
        explain(model)


def test_a_function_whose_network_is_not_known():
    with pytest.raises(TypeError, match="encode must be a network"):
        from_module(lambda images: images.mean((2, 3)))


def test_a_cam_by_name_for_a_model_that_attends():
    with pytest.raises(
        ValueError, match=f"GradCAM .* the methods for it are {', '.join(explaining('CLS'))}$"
    ):
        explain(of_timm("vit_base_patch16_224")(), method="GradCAM")


def test_a_method_of_attention_by_name_for_a_model_that_convolves():
    family = FAMILIES["convnext_base"]
    case = Case(family)
    with pytest.raises(
        ValueError, match=f"not attend.* methods for it are {', '.join(CAMS | MASKING)}$"
    ):
        case.maps("last grad")


def test_a_method_that_is_in_no_table():
    with pytest.raises(ValueError, match="unknown method 'gradcam\\+\\+'; the methods for a "):
        explain(of_timm("vit_base_patch16_224")(), method="gradcam++")


def test_methods_of_a_model_that_cannot_be_run_yet():
    model = of_timm("vit_base_patch16_224")()
    with pytest.raises(ValueError, match="is known once it has run: give an Encoder with preproc"):
        methods(Encoder(model, model.__call__))


def test_an_imagenet_classifier_is_a_model_like_others():
    case = Case(Family(of_timm("vit_base_patch16_224", num_classes=10), (4, 4)))
    assert case.features.shape == (2, 10)
    for method in (*OF_PAIRS, "direct", "path"):
        assert_close(case.maps(method), expected_maps(case, method))
