"""Texts are encoded wherever their tokens are, and by programs made of the model."""

import pytest
import torch
from torch import nn

from clip_ import tokenize
from model import CLIP
from small_clip import TEXT, small_vit

SHORT = tokenize(["a cow"])
TWO = tokenize(["a cow", "a sheep"])
LONG = tokenize(["a cow and two sheep on the grass below a wood", "a cow", "grass"])


class TextTower(nn.Module):
    def __init__(self, model: CLIP):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model.encode_text(tokens)


@pytest.fixture(scope="module")
def tower():
    return TextTower(small_vit()).eval()


ANY_NUMBER = {"tokens": {0: torch.export.Dim("text")}}
EXPORTS = {
    "torch.export": lambda tower: torch.export.export(
        tower, (TWO,), dynamic_shapes=ANY_NUMBER
    ).module(),
    "torch.jit.trace": lambda tower: torch.jit.trace(tower, (TWO,)),
    "torch.compile": lambda tower: torch.compile(tower, backend="eager", fullgraph=True),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_program_made_with_two_short_texts_reads_three_long_ones(tower, name):
    with torch.no_grad():
        program = EXPORTS[name](tower)
        torch.testing.assert_close(program(TWO), tower(TWO), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(program(LONG), tower(LONG), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["torch.export", "torch.jit.trace"])
def test_a_program_is_made_with_gradients_enabled_too(tower, name):
    program = EXPORTS[name](tower)
    torch.testing.assert_close(program(LONG), tower(LONG), rtol=1e-4, atol=1e-5)
    assert all(block.attn_grad is None for block in tower.model.transformer.resblocks)


@pytest.mark.parametrize("grad", [False, True])
def test_tokens_go_to_the_device_of_the_model(grad):
    with torch.device("meta"):
        model = CLIP(16, 32, 1, 128, 8, vocab_size=49408, **TEXT).eval()
    with torch.set_grad_enabled(grad):
        features = model.encode_text(SHORT)
    assert features.device.type == "meta"
    assert features.shape == (1, 16)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("padding", [0, 49407])
def test_padding_beyond_what_a_model_reads_is_left_out(grad, padding):
    """`tokenize` pads to 77 whatever the model; other tokenizers pad with the end of text."""
    torch.manual_seed(0)
    model = CLIP(16, 32, 1, 128, 8, vocab_size=49408, **TEXT | {"context_length": 12}).eval()
    longer = tokenize(["a cow", "two sheep"])
    longer[:, 6:] = padding
    with torch.set_grad_enabled(grad):
        expected = model.encode_text(tokenize(["a cow", "two sheep"], 12))
        torch.testing.assert_close(model.encode_text(longer), expected)


@pytest.mark.parametrize("length", [77, 13])
def test_a_text_longer_than_a_model_reads_is_refused(length):
    model = CLIP(16, 32, 1, 128, 8, vocab_size=49408, **TEXT | {"context_length": 12}).eval()
    with pytest.raises(ValueError, match=rf"reads 12 tokens of a text; got {length}.*truncate"):
        model.encode_text(tokenize(" ".join(["cow"] * 11), length))


def test_a_hook_on_a_block_sees_whole_texts(tower):
    """A block that is changed may read what follows the end."""
    lengths = []
    handle = tower.model.transformer.resblocks[0].register_forward_hook(
        lambda module, inputs, output: lengths.append(output.shape[1])
    )
    with torch.no_grad():
        tower(SHORT)
        handle.remove()
    assert lengths == [77]
