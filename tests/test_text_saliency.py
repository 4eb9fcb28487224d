"""Relevance of words equals what is defined, of anybody's text tower; or is refused.

Tokens, words and marks are told apart whatever the tokenizer; nothing is left on the model.
"""

import copy
from concurrent.futures import ThreadPoolExecutor

import open_clip
import pytest
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from clip_ import tokenize
from conftest import noise
from families import stirred
from methods.texts import TEXT_METHODS
from objective import target_directions
from recording.encoders import Encoder, from_open_clip, from_transformers
from small_clip import small_resnet, small_vit
from test_no_trace import assert_untouched, everything_on
from text_oracles import oracle
from text_saliency import LEAVE_OUT, text_methods, text_relevance

EXACT = 1e-9
TEXTS = ["a cow, and a sheep", "unbelievably (small) naïve foxes!", "two brown horses' tails"]
every_method = pytest.mark.parametrize("method", TEXT_METHODS)


@pytest.fixture(scope="module")
def clip():
    return small_vit().double()


@pytest.fixture(scope="module")
def targets():
    return noise(3, 16)


def tower(**text):
    """A small model of open_clip whose text tower is as the configuration says."""
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3} | text
    vision = {"layers": 1, "width": 64, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    if text.pop("custom", False):
        return stirred(open_clip.CustomTextCLIP(16, vision, text)).double()
    return stirred(open_clip.CLIP(16, vision, text)).double()


def coca():
    text = {"context_length": 15, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3}
    text |= {"embed_cls": True, "output_tokens": True}
    vision = {"layers": 1, "width": 64, "image_size": 32, "patch_size": 16, "output_tokens": True}
    vision |= {"attentional_pool": True, "attn_pooler_heads": 2}
    torch.manual_seed(0)
    return stirred(open_clip.CoCa(16, text | {"layers": 1}, text, vision)).double()


OF_OPEN_CLIP = {
    "read at the end": tower,
    "text tower apart": lambda: tower(custom=True),
    "sub-normalised": lambda: tower(ls_init_value=0.5),
    "SigLIP, read at the last token": lambda: tower(
        custom=True, pool_type="last", no_causal_mask=True, proj_bias=True
    ),
    "read at the first token": lambda: tower(
        custom=True, pool_type="first", no_causal_mask=True
    ),
    "CoCa, a token of its own behind the others": coca,
}


def words_tokenizer(first, last, pad):
    """A tokenizer of transformers that reads letters, with marks around a text."""
    letters = "abcdefghijklmnopqrstuvwxyz,()'!ï"
    marks = dict.fromkeys([first or last, last, pad, "[UNK]"])
    names = [*letters, *(f"##{letter}" for letter in letters), *marks]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    around = f"{first} $A {last}" if first else f"$A {last}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(mark, vocabulary[mark]) for mark in marks]
    )
    special = {"eos_token": last, "pad_token": pad, "unk_token": "[UNK]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=48, **special
    )


def of_transformers(kind, first, last, pad, **text):
    tokenizer = words_tokenizer(first, last, pad)
    text = {
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
        **{"num_attention_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 48},
        **{"projection_dim": 16, "project_dim": 16, "projection_size": 16},
        **{"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id},
        **{"bos_token_id": None},
        **text,
    }
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    config = getattr(transformers, f"{kind}Config")
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(
        config(vision_config=vision, text_config=text, projection_dim=16)
    )
    return stirred(model).double(), tokenizer


OF_TRANSFORMERS = {
    "CLIP": lambda: of_transformers("CLIP", "<s>", "</s>", "[PAD]"),
    "CLIP, padded with the end": lambda: of_transformers("CLIP", "<s>", "</s>", "</s>"),
    "SigLIP": lambda: of_transformers("Siglip", None, "</s>", "</s>"),
    "Chinese-CLIP": lambda: of_transformers("ChineseCLIP", "[CLS]", "[SEP]", "[PAD]"),
    "AltCLIP": lambda: of_transformers(
        "AltCLIP", "<s>", "</s>", "[PAD]", max_position_embeddings=100
    ),
}
POST_NORMALISED = ("Chinese-CLIP", "AltCLIP")  # their streams are not added to alone


def relevance(model, texts, targets, method, **options):
    return [one.relevance for one in text_relevance(model, texts, targets, method, **options)]


def assert_equal(found, expected):
    assert found.shape == expected.shape
    assert expected.any()
    assert (found - expected).abs().max() <= EXACT * expected.abs().max()


def assert_words_are_tokens(found, expected, groups):
    """Sums over the tokens of each word."""
    sums = [[row[group].sum() for group in groups] for row in expected]
    assert_equal(found, torch.tensor(sums, dtype=torch.float64))


# Of the first two texts, the tokens of each word, counted from the first of the text: the comma, the
# brackets and the exclamation mark are nobody's.
OURS = [[[0], [1], [3], [4], [5]]]


@every_method
@pytest.mark.parametrize("network", [small_vit, small_resnet])
def test_words_of_ours_are_as_defined(network, method, targets):
    model = network().double()
    (found,) = relevance(model, TEXTS[0], targets, method)
    ids = tokenize(TEXTS[0])[:, :8]
    expected = torch.stack(
        [
            oracle(model, model.encode_text, ids, target, method, 7, slice(1, 7))
            for target in targets
        ]
    )
    assert_words_are_tokens(found, expected, OURS[0])


def expected_relevance(model, encode, ids, targets, method, reader, inside):
    return torch.stack(
        [oracle(model, encode, ids, target, method, reader, inside) for target in targets]
    )


@every_method
@pytest.mark.parametrize("name", OF_OPEN_CLIP)
def test_words_of_open_clip_are_as_defined(name, method, targets):
    model, tokenizer = OF_OPEN_CLIP[name](), open_clip.SimpleTokenizer(context_length=15)
    if name != "CoCa, a token of its own behind the others":
        tokenizer = open_clip.SimpleTokenizer(context_length=16)
    ids = tokenizer([TEXTS[0]])
    reader = {"SigLIP, read at the last token": 15, "read at the first token": 0}.get(name, 7)
    reader = 15 if name.startswith("CoCa") else reader
    (found,) = relevance(model, TEXTS[0], targets, method, tokenizer=tokenizer)
    arguments = (model, model.encode_text, ids, targets, method, reader, slice(1, 7))
    assert_words_are_tokens_of_all(found, expected_relevance(*arguments))


def assert_words_are_tokens_of_all(found, expected):
    sums = [[row[group].sum() for group in OURS[0]] for row in expected]
    assert_equal(found, torch.tensor(sums, dtype=torch.float64))


@every_method
@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_words_of_transformers_are_as_defined(name, method, targets):
    model, tokenizer = OF_TRANSFORMERS[name]()
    if name in POST_NORMALISED and method.startswith("direct"):
        with pytest.raises(ValueError, match="path takes it"):
            relevance(model, TEXTS[0], targets, method, tokenizer=tokenizer)
        return
    (found,) = relevance(model, "ab, (cd) e", targets, method, tokenizer=tokenizer)
    padding = "max_length" if name == "SigLIP" else False
    given = tokenizer("ab, (cd) e", padding=padding, return_tensors="pt")
    ids = given.pop("input_ids")
    start = 0 if name == "SigLIP" else 1
    inside = slice(start, start + 8)
    reader = {"SigLIP": 47, "Chinese-CLIP": 0, "AltCLIP": 0}.get(name, inside.stop)

    def encode(ids):
        return model.get_text_features(input_ids=ids, **given).pooler_output

    expected = expected_relevance(model, encode, ids, targets, method, reader, inside)
    sums = [[row[group].sum() for group in ([0, 1], [4, 5], [7])] for row in expected]
    assert_equal(found, torch.tensor(sums, dtype=torch.float64))
