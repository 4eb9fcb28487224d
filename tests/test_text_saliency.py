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
from recording.encoders import Encoder, from_open_clip
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


UNMASKED = {"custom": True, "no_causal_mask": True}
OF_OPEN_CLIP = {  # the model, how many tokens it reads, and which the features are read from
    "CLIP": (tower, 16, 7),
    "text tower apart": (lambda: tower(custom=True), 16, 7),
    "scaled blocks": (lambda: tower(ls_init_value=0.5), 16, 7),
    "SigLIP": (lambda: tower(pool_type="last", proj_bias=True, **UNMASKED), 16, 15),
    "first token": (lambda: tower(pool_type="first", **UNMASKED), 16, 0),
    "CoCa, which adds a token": (coca, 15, 15),
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


def expected_words(model, encode, ids, targets, method, reader, inside, groups):
    """For each target, the sums of what is expected over the tokens of each word."""
    rows = [oracle(model, encode, ids, target, method, reader, inside) for target in targets]
    return torch.stack([torch.stack([row[group].sum() for group in groups]) for row in rows])


# "a cow, and a sheep": the tokens of each word, counted from the first. The comma is nobody's.
OURS = [[0], [1], [3], [4], [5]]


@every_method
@pytest.mark.parametrize("network", [small_vit, small_resnet])
def test_words_of_ours_are_as_defined(network, method, targets):
    model = network().double()
    (found,) = relevance(model, TEXTS[0], targets, method)
    given = (model, model.encode_text, tokenize(TEXTS[0])[:, :8], targets, method)
    assert_equal(found, expected_words(*given, 7, slice(1, 7), OURS))


@every_method
@pytest.mark.parametrize("name", OF_OPEN_CLIP)
def test_words_of_open_clip_are_as_defined(name, method, targets):
    build, length, reader = OF_OPEN_CLIP[name]
    model, tokenizer = build(), open_clip.SimpleTokenizer(context_length=length)
    (found,) = relevance(model, TEXTS[0], targets, method, tokenizer=tokenizer)
    given = (model, model.encode_text, tokenizer([TEXTS[0]]), targets, method)
    assert_equal(found, expected_words(*given, reader, slice(1, 7), OURS))


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
    rest = tokenizer("ab, (cd) e", padding=padding, return_tensors="pt")
    ids = rest.pop("input_ids")
    start = 0 if name == "SigLIP" else 1
    inside = slice(start, start + 8)
    reader = {"SigLIP": 47, "Chinese-CLIP": 0, "AltCLIP": 0}.get(name, inside.stop)

    def encode(ids):
        return model.get_text_features(input_ids=ids, **rest).pooler_output

    given = (model, encode, ids, targets, method, reader, inside)
    assert_equal(found, expected_words(*given, [[0, 1], [4, 5], [7]]))


@pytest.mark.parametrize("method", text_methods())
def test_texts_of_any_length_together_are_as_each_alone(clip, targets, method):
    texts = [*TEXTS, "foxes", "a cow and a cow", *TEXTS]
    together = text_relevance(clip, texts, targets, method)
    assert [one.text for one in together] == texts
    for text, one in zip(texts, together, strict=True):
        (alone,) = text_relevance(clip, text, targets, method)
        assert torch.allclose(one.relevance, alone.relevance, rtol=EXACT, atol=1e-12)
        assert (one.words, one.spans) == (alone.words, alone.spans)


def test_many_targets_are_as_each_alone(clip, monkeypatch):
    targets = noise(9, 16)
    for method in text_methods():
        each = [relevance(clip, TEXTS[0], target[None], method)[0] for target in targets]
        (together,) = relevance(clip, TEXTS[0], targets, method)
        assert torch.allclose(together, torch.cat(each), rtol=EXACT, atol=1e-12)
        monkeypatch.setattr("text_saliency.PAIRS", 2)
        monkeypatch.setattr("text_saliency.WHOLE_PAIRS", 2)
        (parts,) = relevance(clip, TEXTS[0], targets, method)
        assert torch.allclose(together, parts, rtol=EXACT, atol=1e-12)


def test_each_text_may_have_targets_of_its_own(clip):
    targets = noise(3, 2, 16)
    found = relevance(clip, TEXTS, targets, "path")
    for text, own, one in zip(TEXTS, targets, found, strict=True):
        assert torch.allclose(one, relevance(clip, text, own, "path")[0], rtol=EXACT)


def test_left_out_is_one_occurrence_of_a_word(clip, targets):
    (found,) = text_relevance(clip, "a cow, and a cow", targets, LEAVE_OUT)
    without = ["cow, and a cow", "a , and a cow", "a cow, a cow", "a cow, and cow", "a cow, and a"]
    features = clip.encode_text(tokenize(["a cow, and a cow", *without]))
    cosines = F.cosine_similarity(features[:, None], targets, dim=-1)
    assert_equal(found.relevance, (cosines[:1] - cosines[1:]).T.detach())


def test_left_out_is_for_whatever_encodes_texts(clip, targets):
    encoder = Encoder(clip.visual, clip.visual.__call__, lambda t: clip.encode_text(tokenize(t)))
    ours, theirs = (relevance(one, TEXTS, targets, LEAVE_OUT) for one in (clip, encoder))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(TypeError, match="tokenizer is needed"):
        text_relevance(encoder, TEXTS, targets, "path")


@pytest.mark.parametrize("method", text_methods())
def test_encoders_know_their_tokenizers(method, targets):
    model, tokenizer = tower(), open_clip.SimpleTokenizer(context_length=16)
    known = relevance(from_open_clip(model, None, tokenizer), TEXTS[0], targets, method)
    given = relevance(model, TEXTS[0], targets, method, tokenizer=tokenizer)
    assert torch.equal(known[0], given[0])
    model, tokenizer = of_transformers("CLIP", "<s>", "</s>", "[PAD]")
    processor = Encoder(model, None, tokenizer=tokenizer)
    known = relevance(processor, "ab cd", targets, method)
    given = relevance(model, "ab cd", targets, method, tokenizer=tokenizer)
    assert torch.equal(known[0], given[0])


@pytest.mark.parametrize("method", [n for n, m in TEXT_METHODS.items() if m.signed] + [LEAVE_OUT])
def test_what_is_signed_changes_its_sign_for_dissimilarity(clip, targets, method):
    (found,) = relevance(clip, TEXTS[0], targets, method)
    (negative,) = relevance(clip, TEXTS[0], targets, method, negative=True)
    assert (found < 0).any()
    assert (found > 0).any()
    assert_equal(negative, -found)


def test_what_is_not_signed_tells_of_dissimilarity_what_it_did_not_of_similarity(clip, targets):
    (found,) = relevance(clip, TEXTS[0], targets, "path")
    (negative,) = relevance(clip, TEXTS[0], targets, "path", negative=True)
    assert found.min() >= 0
    assert negative.min() >= 0
    assert not torch.allclose(found, negative)


def test_scale_is_that_of_the_objective(clip, targets):
    (once,), (hundred,) = (
        relevance(clip, TEXTS[0], targets, "path", scale=scale) for scale in (1, 100)
    )
    assert_equal(hundred, 100 * once)
    (once,), (hundred,) = (
        relevance(clip, TEXTS[0], targets, "all grads", scale=scale) for scale in (1, 100)
    )
    assert (hundred > 100 * once).any()  # products of matrices grow faster


def test_relevance_collects_from_a_block_on(clip, targets):
    blocks = len(clip.transformer.resblocks)
    parts = [
        relevance(clip, TEXTS[0], targets, "path", start_block=start)[0]
        for start in (0, -blocks, 1, -1)
    ]
    assert torch.equal(parts[0], parts[1])
    assert torch.equal(parts[2], parts[3])
    assert (parts[0] > parts[2]).any()
    with pytest.raises(ValueError, match="out of range"):
        relevance(clip, TEXTS[0], targets, "path", start_block=blocks)


WORDS = {
    "a cow, and a sheep.": ["a", "cow", "and", "a", "sheep"],
    "  (The dog's)\n 'tis  ": ["The", "dog's", "tis"],
    "R&amp;D — naïve 猫が 🐄🐄": ["R&amp;D", "—", "naïve", "猫が", "🐄🐄"],
    "“Wait...” & see": ["Wait", "&", "see"],
    "...": ["..."],
}


@pytest.mark.parametrize("text", WORDS)
def test_words_stand_in_the_text_without_the_punctuation_around_them(clip, targets, text):
    for method in ("path", LEAVE_OUT):
        (found,) = text_relevance(clip, text, targets, method)
        assert found.words == WORDS[text]
        assert [text[start:end] for start, end in found.spans] == found.words
        assert found.relevance.shape == (3, len(found.words))


def test_a_text_as_long_as_the_model_reads_is_explained_and_a_longer_one_refused(clip, targets):
    text = " ".join(["cow"] * 75)
    (found,) = text_relevance(clip, text, targets)
    assert found.relevance.shape == (3, 75)
    for method in ("path", LEAVE_OUT):
        with pytest.raises(ValueError, match="no more than 77 tokens"):
            text_relevance(clip, ["fine", text + " cow"], targets, method)


@pytest.mark.parametrize("method", ["path", LEAVE_OUT])
def test_what_a_tokenizer_cuts_off_is_refused(targets, method):
    text, model = " ".join(["cow"] * 15), tower()
    with pytest.raises(ValueError, match="no more than 16 tokens"):
        relevance(
            model, text, targets, method, tokenizer=open_clip.SimpleTokenizer(context_length=16)
        )
    model, tokenizer = of_transformers("CLIP", "<s>", "</s>", "[PAD]")
    with pytest.raises(ValueError, match="no more than 48 tokens"):
        relevance(model, "a" * 47, targets, method, tokenizer=tokenizer)
    assert relevance(model, "a" * 46, targets, method, tokenizer=tokenizer)


def test_the_mark_of_the_end_in_letters_is_refused(clip, targets):
    with pytest.raises(ValueError, match="no more than"):
        text_relevance(clip, "a cow <|endoftext|> and a sheep", targets)
    model, tokenizer = tower(), open_clip.SimpleTokenizer(context_length=16)
    with pytest.raises(ValueError, match="mark of the end"):
        text_relevance(model, "a <end_of_text> cow", targets, tokenizer=tokenizer)


class Averages(nn.Module):
    """A text tower whose features are the mean of its tokens."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def encode_text(self, ids):
        inner = self.inner
        x = inner.token_embedding(ids) + inner.positional_embedding
        return inner.ln_final(inner.transformer(x)).mean(1) @ inner.text_projection


def test_features_that_are_read_from_many_tokens_are_refused(targets):
    model, tokenizer = Averages(tower()), open_clip.SimpleTokenizer(context_length=16)
    for method in TEXT_METHODS:
        with pytest.raises(ValueError, match="from 16 tokens"):
            relevance(model, TEXTS[0], targets, method, tokenizer=tokenizer)
    assert relevance(model, TEXTS[0], targets, LEAVE_OUT, tokenizer=tokenizer)


class Prompted(nn.Module):
    """A text tower that reads learned tokens before those of a text."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def encode_text(self, ids):
        inner = self.inner
        x = inner.token_embedding(ids) + inner.positional_embedding
        x = torch.cat([x[:, :1], x], 1)
        x = inner.ln_final(inner.transformer(x))
        return x[torch.arange(len(x)), ids.argmax(1) + 1] @ inner.text_projection


def test_tokens_that_are_moved_by_others_are_refused(targets):
    model, tokenizer = Prompted(tower()), open_clip.SimpleTokenizer(context_length=16)
    for method in TEXT_METHODS:
        with pytest.raises(ValueError, match="this model makes 17"):
            relevance(model, TEXTS[0], targets, method, tokenizer=tokenizer)


def test_attention_step_by_step_is_refused_with_the_switch(targets):
    model, tokenizer = of_transformers("CLIP", "<s>", "</s>", "[PAD]")
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="set_attn_implementation"):
        relevance(model, "ab", targets, "path", tokenizer=tokenizer)


REFUSED = {
    "no text": ([], {}, ValueError, "at least one text"),
    "an empty text": (["a cow", " \n"], {}, ValueError, "must have a word"),
    "no string": (["a cow", 3], {}, TypeError, "must be strings; got int"),
    "method": ("a cow", {"method": "rolout"}, ValueError, "unknown method 'rolout'"),
    "no name": ("a cow", {"method": ["path"]}, ValueError, "unknown method"),
    "scale": ("a cow", {"scale": 0}, ValueError, "positive"),
    "negative attention": (
        *("a cow", {"method": "attention", "negative": True}, ValueError),
        "same for all targets",
    ),
    "blocks left out": (
        *("a cow", {"method": LEAVE_OUT, "start_block": 1}, ValueError),
        "reads no blocks",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_explained_is_refused(clip, targets, case):
    texts, options, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said):
        text_relevance(clip, texts, targets, **options)


@pytest.mark.parametrize("method", text_methods())
def test_targets_are_checked(clip, targets, method):
    for wrong, said in (
        (noise(2, 15), "16 wide"),
        (noise(2, 4, 16), "got targets for 2 texts, but 1 texts"),
        (targets * torch.nan, "NaN"),
        (targets * 0, "all zero"),
    ):
        with pytest.raises(ValueError, match=said):
            text_relevance(clip, "a cow", wrong, method)


def test_models_without_texts_are_refused(clip, targets):
    with pytest.raises(TypeError, match="whole CLIP"):
        text_relevance(clip.visual, "a cow", targets, tokenizer=tokenize)
    with pytest.raises(TypeError, match="tokenizer is needed"):
        text_relevance(tower(), "a cow", targets)


@pytest.mark.parametrize("method", text_methods())
def test_nothing_is_left_on_the_model(method, targets):
    """One parameter frozen, one module in training mode: flags that could be lost."""
    model = small_vit().double()
    model.token_embedding.requires_grad_(False)
    model.transformer.resblocks[1].train()
    before = everything_on(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = relevance(model, TEXTS, targets, method)
    assert_untouched(model, before, weights)
    assert not any(one.requires_grad for one in found)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        again = relevance(model, TEXTS, targets, method)
    for one, other in zip(found, again, strict=True):
        assert torch.allclose(one, other, rtol=EXACT, atol=1e-12)


@pytest.mark.parametrize("method", text_methods())
def test_a_frozen_model_is_explained_as_any(clip, targets, method):
    frozen = copy.deepcopy(clip).requires_grad_(False)
    (found,) = relevance(frozen, TEXTS[0], targets, method)
    assert torch.equal(found, relevance(clip, TEXTS[0], targets, method)[0])


def test_threads_share_a_model(clip, targets):
    methods = text_methods() * 2
    alone = [relevance(clip, TEXTS[0], targets, method)[0] for method in methods]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda m: relevance(clip, TEXTS[0], targets, m)[0], methods))
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(clip, targets, dtype):
    from model import convert_weights

    half = convert_weights(copy.deepcopy(clip), dtype)
    for method in text_methods():
        (exact,) = relevance(clip, TEXTS[0], targets, method)
        (found,) = relevance(half, TEXTS[0], targets.to(dtype), method)
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 0.15 * exact.norm()


def test_hooks_of_the_model_count(clip, targets):
    model = copy.deepcopy(clip)
    model.transformer.resblocks[0].register_forward_hook(lambda *call: 1.5 * call[-1])
    (found,) = relevance(model, TEXTS[0], targets, "path")
    ids = tokenize(TEXTS[0])
    given = (model, model.encode_text, ids, targets, "path", 7, slice(1, 7), OURS)
    assert_equal(found, expected_words(*given))
