"""What the page's tokenizer has to know: the merges of the vocabulary, and what `ftfy` knows of
broken texts, written from what Python's tokenizer itself reads.
"""

import html
import re
import sys
import unicodedata
from collections.abc import Callable
from html.entities import html5

import regex
from ftfy import chardata, fixes
from ftfy.bad_codecs import utf8_variants
from ftfy.badness import BADNESS_RE

from clip_ import default_tokenizer
from recording.word_tokens import PUNCTUATION

# What Python's `re` means by these, for JavaScript.
CLASSES = {
    r"\s": r"[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
    r"\w": r"[\p{L}\p{N}_]",
    ".": r"[^\n]",
}
PARTS = re.compile(r"(?P<idle>#[^\n]*|[ \t\n\r\v\f]+)|\[[^\]]*\]|\\.|.")


def vocabulary() -> str:
    """The merges, best first, one a line."""
    return "\n".join(" ".join(pair) for pair in default_tokenizer().ranks)


def tables() -> dict:
    return {
        "entities": html5,
        "wrong references": html._invalid_charrefs,
        "no characters": sorted(html._invalid_codepoints),
        "code pages": {name: code_page(name) for name in chardata.CHARMAP_ENCODINGS},
        "bad": in_javascript(BADNESS_RE),
        "embedded": in_javascript(chardata.UTF8_DETECTOR_RE),
        "altered": of_bytes(chardata.ALTERED_UTF8_RE),
        "a grave": of_bytes(fixes.A_GRAVE_WORD_RE),
        "lossy": of_bytes(chardata.LOSSY_UTF8_RE),
        "variants": of_bytes(utf8_variants.CESU8_RE),
        "ligatures": characters(chardata.LIGATURES),
        "widths": characters(chardata.WIDTH_MAP),
        "controls": "".join(map(chr, chardata.CONTROL_CHARS)),
        "letters": ranges(regex.compile(r"\p{L}").match),
        "numbers": ranges(regex.compile(r"\p{N}").match),
        "unassigned": ranges(is_unassigned),
        "punctuation": PUNCTUATION,
    }


def code_page(name: str) -> str:
    """What the 256 bytes are in it."""
    return bytes(range(256)).decode(name)


def characters(table: dict[int, str]) -> dict[str, str]:
    return {chr(code): text for code, text in table.items()}


def ranges(holds: Callable[[str], object]) -> str:
    """The inside of a class: the characters that something holds of."""
    found = []
    for code in filter(lambda code: holds(chr(code)), range(sys.maxunicode + 1)):
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return "".join(f"\\u{{{first:x}}}-\\u{{{last:x}}}" for first, last in found)


def is_unassigned(character: str) -> bool:
    return unicodedata.category(character) == "Cn"


def of_bytes(pattern: re.Pattern[bytes]) -> str:
    """Of strings whose characters stand for bytes."""
    return pattern.pattern.decode("latin-1")


def in_javascript(pattern: re.Pattern[str]) -> str:
    """A verbose pattern, without its white space and comments."""
    parts = (match[0] for match in PARTS.finditer(pattern.pattern) if not match["idle"])
    return "".join(CLASSES.get(part, part) for part in parts)
