"""What its user did to a model of a library counts, and nothing that explaining does stays on it.

The reference is autograd through the model as it then is.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograd_oracle import Case, assert_close, distance, expected_maps, unmasked
from families import FAMILIES, of_open_clip, of_timm, of_transformers, stirred
from methods import METHODS, explaining
from test_no_trace import assert_untouched, everything_on
from vit_oracles import OF_PAIRS

OTHER = 1e-3  # what is further apart is not the same map
LIBRARIES = {"open_clip": "ViT-B-32", "transformers": "CLIPModel", "timm": "timm"}
BLOCKS = {
    "open_clip": "visual.transformer.resblocks",
    "transformers": "vision_model.encoder.layers",
    "timm": "blocks",
}
ADAPTED = {  # layers of attention and of the MLP
    "open_clip": ["attn", "c_fc", "c_proj"],
    "transformers": ["q_proj", "v_proj", "fc1", "fc2"],
    "timm": ["qkv", "proj", "fc1", "fc2"],
}
# With what drops at random in training.
DROPPING = {
    "open_clip": of_open_clip("ViT-B-32", width=128, layers=3, image_size=64, patch_dropout=0.5),
    "transformers": of_transformers("CLIP", attention_dropout=0.5),
    "timm": of_timm("vit_base_patch16_224", img_size=(64, 96), drop_path_rate=0.5),
}

every_library = pytest.mark.parametrize("library", LIBRARIES)
every_method = pytest.mark.parametrize("method", unmasked(explaining("CLS")))


@pytest.fixture
def family(library):
    return FAMILIES[LIBRARIES[library]]


@pytest.fixture
def model(family):
    return family.model().double()


@pytest.fixture
def blocks(model, library):
    return model.get_submodule(BLOCKS[library])


@pytest.fixture
def case(family, model):
    return Case(family, model)


@pytest.fixture
def plain(family, model):
    """The maps of the model as it is."""
    return Case(family, copy.deepcopy(model)).maps("last grad")


def rolled(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
    return output.roll(1, -1)


def assert_exact(case: Case) -> None:
    for method in (*OF_PAIRS, "direct", "path"):
        assert_close(case.maps(method), expected_maps(case, method))


# What its user did


@every_library
@pytest.mark.parametrize("place", [0, 1, -1])
def test_hooks_count(family, model, blocks, plain, place):
    blocks[place].mlp.register_forward_hook(rolled)
    case = Case(family, model)
    assert distance(case.maps("last grad"), plain) > OTHER
    assert_exact(case)


@every_library
@pytest.mark.parametrize("merged", [False, True], ids=["", "merged"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lora_counts(family, library, model, plain, merged):
    case = Case(family, lora(library, model, merged))
    assert distance(case.maps("last grad"), plain) > OTHER
    assert_exact(case)


def lora(library: str, model: nn.Module, merged: bool = False) -> nn.Module:
    torch.manual_seed(1)
    config = peft.LoraConfig(target_modules=ADAPTED[library], init_lora_weights=False, r=2)
    adapted = peft.get_peft_model(model, config).eval()
    return adapted.merge_and_unload() if merged else adapted


def quantised(mlp: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(mlp, {nn.Linear})


@every_library
@pytest.mark.parametrize("method", ["last grad", "gradcam"])
@pytest.mark.filterwarnings("ignore")
def test_quantised_layers_count_where_no_gradient_is_asked_of_them(family, library, method):
    model = family.model()
    plain = Case(family, copy.deepcopy(model), torch.float32).maps(method)
    early, middle, last = model.get_submodule(BLOCKS[library])
    early.mlp, middle.mlp = quantised(middle.mlp), quantised(last.mlp)  # no small change
    case = Case(family, model, torch.float32)
    expected = expected_maps(case, method)
    assert distance(case.maps(method), expected) < 0.1 * distance(plain, expected)


@every_library
@pytest.mark.parametrize(("method", "first"), [("last grad", 2), ("all grads", 0)])
@pytest.mark.filterwarnings("ignore")
def test_quantised_layers_have_no_gradient(family, library, method, first):
    model = family.model()
    block = model.get_submodule(BLOCKS[library])[first]
    block.mlp = quantised(block.mlp)
    with pytest.raises(ValueError, match="has no derivative: is it quantised"):
        Case(family, model, torch.float32).maps(method)


def compile_blocks(blocks: nn.ModuleList) -> None:
    for index, block in enumerate(list(blocks)):
        blocks[index] = torch.compile(block, backend="eager")


def compile_blocks_in_place(blocks: nn.ModuleList) -> None:
    for block in blocks:
        block.compile(backend="eager")


@every_library
@pytest.mark.parametrize("change", [compile_blocks, compile_blocks_in_place])
def test_compiled_blocks_are_blocks(family, model, blocks, plain, change):
    change(blocks)
    for method in explaining("CLS"):
        Case(family, model).maps(method)
    assert_close(Case(family, model).maps("last grad"), plain)


@every_library
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_what_is_wrapped_around_a_model_is_seen_through(family, model, plain, wrap):
    assert_close(Case(family, wrap(model)).maps("last grad"), plain)


@every_library
@every_method
@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_maps_of_coarser_models_are_float32_and_close(family, model, dtype, error, method):
    model.to(dtype)
    exact = Case(family, copy.deepcopy(model), torch.float32)
    maps = Case(family, model, dtype).maps(method)
    assert {one.dtype for one in maps} == {torch.float32}
    assert_close(maps, exact.maps(method), error)


# What stays on it


@every_library
@every_method
def test_a_model_in_training_stays_so_and_is_explained_as_if_it_were_not(family, library, method):
    torch.manual_seed(0)
    model = stirred(DROPPING[library]()).double()
    expected = Case(family, copy.deepcopy(model)).maps(method)
    model.train()
    next(model.parameters()).requires_grad_(False)
    with left_as_it_was(model):
        case = Case(family, model)
        assert_close(case.maps(method), expected)


@every_library
@every_method
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_nothing_is_left_behind(case, method, mode):
    with left_as_it_was(case.model), mode():
        case.maps(method, negative=METHODS[method].of_targets)


@every_library
def test_nothing_is_left_behind_on_adapters(family, library, model):
    """Not even rounding, as a run of peft's attention does: it adds to the weights and takes away.

    Its parameters are made anew whenever modules are listed, so only their values can be compared.
    """
    case = Case(family, lora(library, model))
    weights = {name: value.clone() for name, value in case.model.state_dict().items()}
    for method in explaining("CLS"):
        case.maps(method)
    for name, value in case.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@every_library
@every_method
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", [0, -1])
def test_nor_after_an_exception_in_the_middle(family, model, blocks, place, error, method):
    case = Case(family, model)

    def fail(*_):
        raise error("in the middle")

    blocks[place].mlp.register_forward_hook(fail)
    with left_as_it_was(model), pytest.raises(error, match="in the middle"):
        case.maps(method)


@every_library
def test_nor_after_one_where_the_last_block_runs_again(family, model, blocks):
    case, calls = Case(family, model), []

    def fail(*_):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt("the second time")

    blocks[-1].mlp.register_forward_hook(fail)
    with left_as_it_was(model), pytest.raises(KeyboardInterrupt, match="the second time"):
        case.maps("last grad")


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Inside the block nothing is changed on the model, its configuration, or for other calls."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, configuration = everything_on(model), configuration_of(model)
    kernels = F.scaled_dot_product_attention, F.multi_head_attention_forward
    yield
    assert_untouched(model, before, weights)
    assert configuration_of(model) == configuration
    assert (F.scaled_dot_product_attention, F.multi_head_attention_forward) == kernels
    assert torch.overrides._len_torch_function_stack() == 0
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def configuration_of(model: nn.Module) -> object:
    """Of transformers' models, the attention they use included."""
    config = getattr(model, "config", None)
    return config and (config.to_dict(), config._attn_implementation)
