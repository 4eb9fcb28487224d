"""CLIP's tokenizer: lower-cased byte-pair encoding (Sennrich et al., 2016, on bytes as in GPT-2).

A text is cleaned, cut into pieces (words, single digits, runs of signs), and each piece starts as
its UTF-8 bytes, the last one marked `</w>`. The neighbours that rank highest in the list of merges
are joined, again and again, until no neighbours are in the list. What remains has an id each.
"""

import gzip
import html
import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import ftfy
import regex

VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
MERGES = 48_894  # of the file's 262,144: with 2 x 256 bytes and 2 marks they make 49,408 tokens
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
PIECE = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,  # not idle after lower(): 's also matches 'ſ (long s)
)


def byte_symbols() -> dict[int, str]:
    """The character that stands for each byte, in the order of the first 256 token ids.

    Printable Latin-1 characters stand for themselves and come first; the others, white space among
    them, are moved to U+0100 and up, so that the vocabulary file can be split at white space.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + position) for position, byte in enumerate(others)
    }


def clean(text: str) -> str:
    """Repair broken encodings, resolve HTML entities (twice), even out white space, lower-case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


class SimpleTokenizer:
    """Text to token ids and back, without start and end marks.

    `encoder` maps symbols to ids, `decoder` ids to symbols. Thread-safe.
    """

    def __init__(self, vocabulary: str | Path = VOCABULARY):
        with gzip.open(vocabulary, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : 1 + MERGES]  # the first line is a header
        merges = [tuple(line.split()) for line in lines]
        self.byte_encoder = byte_symbols()
        self.byte_decoder = {symbol: byte for byte, symbol in self.byte_encoder.items()}
        symbols = list(self.byte_encoder.values())
        symbols += [symbol + WORD_END for symbol in symbols]
        symbols += ["".join(pair) for pair in merges]
        symbols += [START, END]
        self.encoder = {symbol: token for token, symbol in enumerate(symbols)}
        self.decoder = {token: symbol for symbol, token in self.encoder.items()}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._cached_tokens = lru_cache(maxsize=2**16)(self._tokens_of_piece)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. The literal marks in a text become their tokens, as in OpenAI's."""
        pieces = PIECE.findall(clean(text))
        return [token for piece in pieces for token in self._cached_tokens(piece)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The cleaned text of `tokens`, a space after each piece; cut-off characters become �."""
        symbols = "".join(self.decoder[int(token)] for token in tokens)
        data = bytes(self.byte_decoder[symbol] for symbol in symbols)
        return data.decode("utf-8", errors="replace").replace(WORD_END, " ")

    def _tokens_of_piece(self, piece: str) -> tuple[int, ...]:
        if piece in (START, END):
            return (self.encoder[piece],)
        symbols = [self.byte_encoder[byte] for byte in piece.encode("utf-8")]
        symbols[-1] += WORD_END
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self.ranks.get(pair, math.inf))
            if best not in self.ranks:
                break
            symbols = join(symbols, best)
        return tuple(self.encoder[symbol] for symbol in symbols)


def join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """`symbols` with every occurrence of `pair` joined, from left to right."""
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined
