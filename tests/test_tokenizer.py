"""The tokenizer equals open_clip's (OpenAI's, vendored) and transformers' on hard strings.

Where the references themselves leave OpenAI's behaviour, the strings are chosen so that they agree:

- open_clip spells its start and end marks differently: no text here contains them but in the tests
  that are about marks.
- transformers does not repair encodings or resolve entities, lower-cases character by character
  and recomposes Unicode (NFC): it is given text that is cleaned and lower-cased already, and only
  text that is composed already. It matches contractions case-sensitively: no 'ſ (long s).
"""

import html
import random
import unicodedata

import ftfy
import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer as OpenClipTokenizer
from transformers import CLIPTokenizer

from clip_ import default_tokenizer, tokenize
from simple_tokenizer import END, START, join

START_ID, END_ID = 49406, 49407
IGNORED_CASE = regex.compile("'ſ|\u0345")

FRAGMENTS = [
    *"aiAZ07²½Ⅷ!?-'\"&;<>#@_/\\|()[]{}~^`$%+=*.,:",
    "a photo of a horse",
    "ASTRONAUT",
    "antidisestablishmentarianism",
    "xqzjkvwpfgh" * 4,
    "C++",
    "3.14159",
    "1234567890",
    "it's we're I've I'm they'll he'd don't IT'S 'tis rock'n'roll",
    "’s ‘quoted’ “double” „low“ «angle»",
    "https://example.org/a?b=c&d=%20#e",
    "naïve café Straße ŒUVRE ﬁne ﬂow Ǆ ŉ",
    "İstanbul ΣΊΣΥΦΟΣ ΟΔΟΣ ẞ",
    "e\u0301 a\u0308 n\u0303 o\u0328\u0301 \u0345",
    "日本語 漢字かなカナ ﾊﾝｶｸ ｆｕｌｌｗｉｄｔｈ １２３",
    "한국어 ᄒ\u1161\u11ab",
    "العربية ٣٤٥ עִבְרִית हिन्दी ไทย தமிழ் አማርኛ",
    "Привет мир ёлка",
    "🐴 🐑 🦓 😂❤️ 👩‍🚀 👨‍👩‍👧‍👦 🏳️‍🌈 🇨🇭 👍🏽 1️⃣ ☃︎ ✈️",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ∑ ∞ ≠ 𝔣𝔯𝔞𝔨𝔱𝔲𝔯 𝟘",
    "&amp; &lt;b&gt; &quot;q&quot; &#39; &eacute; &#x1F600; &amp;amp;lt; &nbsp; &notanentity; &#0;",
    "&#128; &#xD800; &#x85; &#28; &copy &ampx",
    "schÃ¶n dâ€™accord Ã© ð\x9f\x98\x80 â€œwordsâ€\x9d ï»¿bom",
    "<|startoftex", "|endoftext|>", "<b>bold</b>", "\x1b[31mred\x1b[0m",
    "\t", "\n", "\r\n", "\v", "\f", "\x85", "\xa0", "\u2003", "\u2028", "\u2029", "\u3000",
    "\x00", "\x1c", "\x1f", "\x7f", "\u200b", "\u200d", "\u200f", "\ufeff", "\ufffd", "\ufffe",
    "\ud800", "\udc00", "\U000e0041", "\U0010ffff",
    "''", "'s's", "''ll", "'S 'RE", "...", "!?!?", "-----", "\u00ad",
]  # fmt: skip


def hard_strings(number: int, seed: int = 0) -> list[str]:
    random_ = random.Random(seed)
    separators = ["", "", " ", " ", "  ", "\n", "\u3000", ","]
    return FRAGMENTS + [
        "".join(
            random_.choice(FRAGMENTS) + random_.choice(separators)
            for _ in range(random_.randint(1, 6))
        )
        for _ in range(number - len(FRAGMENTS))
    ]


CORPUS = hard_strings(2500)
anything = st.text(max_size=60) | st.text(st.characters(), max_size=60)  # and lone surrogates
pieces = st.lists(st.sampled_from(FRAGMENTS) | anything, max_size=4).map("".join)
pieces = pieces.filter(lambda text: not regex.search("of_?text", text, regex.IGNORECASE))

REPEATABLE = settings(max_examples=500, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def ours():
    return default_tokenizer()


@pytest.fixture(scope="module")
def open_clips():
    return OpenClipTokenizer()


@pytest.fixture(scope="module")
def transformers_(open_clips):
    """Built from open_clip's copy of the vocabulary."""
    marks = {START_ID: START, END_ID: END}
    vocabulary = {marks.get(token, symbol): token for token, symbol in open_clips.decoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(open_clips.bpe_ranks))


def cleaned(text: str) -> str:
    """What OpenAI's tokenizer does before it cuts a text into pieces."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


def transformers_agrees(text: str) -> bool:
    assigned = all(unicodedata.category(character) != "Cn" for character in text)
    return assigned and unicodedata.is_normalized("NFC", text) and not IGNORED_CASE.search(text)


def test_the_corpus_is_large_and_mostly_comparable_with_transformers():
    assert len(set(CORPUS)) >= 2000
    assert sum(transformers_agrees(cleaned(text)) for text in CORPUS) >= 2000


def test_the_vocabulary_is_open_clips(ours, open_clips):
    assert len(ours.encoder) == 49408
    assert {**open_clips.encoder, START: START_ID, END: END_ID}.items() >= ours.encoder.items()


def test_equals_open_clip_on_the_corpus(ours, open_clips):
    different = [text for text in CORPUS if ours.encode(text) != open_clips.encode(text)]
    assert different == []


def test_equals_transformers_on_the_corpus(ours, transformers_):
    texts = [text for text in CORPUS if transformers_agrees(cleaned(text))]
    theirs = transformers_([cleaned(text) for text in texts])["input_ids"]
    different = [
        text
        for text, tokens in zip(texts, theirs, strict=True)
        if [START_ID, *ours.encode(text), END_ID] != tokens
    ]
    assert different == []


@REPEATABLE
@given(text=pieces)
def test_equals_open_clip_on_any_text(ours, open_clips, text):
    assert ours.encode(text) == open_clips.encode(text)


@REPEATABLE
@given(text=pieces)
def test_equals_transformers_on_any_text(ours, transformers_, text):
    if transformers_agrees(cleaned(text)):
        theirs = transformers_(cleaned(text))["input_ids"]
        assert [START_ID, *ours.encode(text), END_ID] == theirs


def test_marks_in_a_text_are_tokens_as_openai_makes_them(ours):
    assert ours.encode("<|startoftext|> a <|EndOfText|>") == [START_ID, 320, END_ID]


def test_very_long_words_are_encoded(ours, open_clips):
    for text in ("a" * 3000, "ab" * 1500, "🐴" * 500):
        assert ours.encode(text) == open_clips.encode(text)


def test_decoding_gives_the_cleaned_text_with_a_space_after_each_piece(ours):
    assert ours.decode(ours.encode("The  ZEBRA's 42.")) == "the zebra 's 4 2 . "


@REPEATABLE
@given(text=pieces)
def test_decoding_loses_nothing_of_the_cleaned_text(ours, text):
    decoded = ours.decode(ours.encode(text))
    assert decoded.replace(" ", "") == regex.sub(r"\s|\u0345", "", cleaned(text))


def test_decoding_half_a_character_gives_the_replacement_character(ours):
    assert "�" in ours.decode(ours.encode("🦓")[:1])


def test_join_is_greedy_from_the_left():
    assert join(["a", "a", "a", "b", "a", "a"], ("a", "a")) == ["aa", "a", "b", "aa"]


def test_tokenize_makes_rows_of_start_text_end_and_zeros():
    tokens = tokenize(["a diagram", ""])
    assert tokens.dtype == torch.long
    assert tokens.shape == (2, 77)
    assert tokens[0, :5].tolist() == [START_ID, 320, 22697, END_ID, 0]
    assert tokens[1, :3].tolist() == [START_ID, END_ID, 0]
    assert not tokens[:, 4:].any()


def test_tokenize_takes_one_text_or_several_or_none():
    assert torch.equal(tokenize("a horse"), tokenize(["a horse"]))
    assert torch.equal(tokenize(("a horse", "a dog")), tokenize(["a horse", "a dog"]))
    assert tokenize([]).shape == (0, 77)


def test_tokenize_refuses_what_is_not_text():
    with pytest.raises(TypeError, match="texts must be strings, got int: 7"):
        tokenize(["a horse", 7])


def test_a_text_that_just_fits_is_taken_whole():
    assert tokenize("horse " * 75)[0, -2:].tolist() == [4558, END_ID]


def test_a_text_that_is_too_long_is_an_error_that_says_how_long():
    with pytest.raises(RuntimeError, match=r"78 tokens.*context length is 77.*truncate=True.*hors"):
        tokenize(["a horse", "horse " * 76])
    with pytest.raises(RuntimeError, match="context length is 4"):
        tokenize("a brown horse", context_length=4)


def test_a_text_that_is_too_long_is_cut_when_asked_and_keeps_its_end(open_clips):
    text = "a horse beside a sheep " * 40
    tokens = tokenize(text, truncate=True)
    assert tokens[0, 0] == START_ID
    assert tokens[0, -1] == END_ID
    assert torch.equal(tokens, open_clips(text))
    assert tokenize(text, context_length=5, truncate=True).shape == (1, 5)
