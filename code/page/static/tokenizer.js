// CLIP's tokenizer, as code/simple_tokenizer.py is: byte pairs, joined in the order of the merges.

import { Repair } from "./repair.js";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const WORD_END = "</w>";
const CHUNK = /[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/gu;

export class TooLong extends Error {}

export class Tokenizer {
  // vocabulary: the merges, one a line; tables: of texts.py.
  constructor(vocabulary, tables) {
    const merges = vocabulary.split("\n");
    this.bytes = byteSymbols(); // in the order of their ids, by byte
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    const symbols = [
      ...this.bytes.values(),
      ...[...this.bytes.values()].map((symbol) => symbol + WORD_END),
      ...merges.map((pair) => pair.replace(" ", "")),
      START,
      END,
    ];
    this.ids = new Map(symbols.map((symbol, id) => [symbol, id]));
    this.start = this.ids.get(START);
    this.end = this.ids.get(END);
    this.repair = new Repair(tables);
    this.punctuation = new Set(tables.punctuation);
    this.piece = pieces(tables.letters, tables.numbers);
    this.known = new Map();
  }

  // The ids of a text, without marks around it.
  encode(text) {
    const pieces = this.repair.clean(text).match(this.piece) ?? [];
    return pieces.flatMap((piece) => this.idsOf(piece));
  }

  // The ids of a text with marks around it; TooLong if a model that reads so many does not.
  tokens(text, most) {
    const tokens = [this.start, ...this.encode(text), this.end];
    if (tokens.length > most) {
      throw new TooLong(
        `This prompt has ${tokens.length} tokens, and the model reads no more than ${most}: shorten it.`,
      );
    }
    return tokens;
  }

  // The words of a text, where they stand in it, and which of its tokens (of `tokens`) are theirs;
  // none if that cannot be told. As code/recording/word_tokens.py has it.
  words(text) {
    const whole = this.encode(text);
    const place = (end) => {
      const part = this.encode(text.slice(0, end));
      return part.every((id, index) => id === whole[index]) ? part.length + 1 : null;
    };
    const words = [];
    let before = 1;
    for (const match of text.matchAll(CHUNK)) {
      const chunk = [match.index, match.index + match[0].length];
      const [start, end] = this.core(match[0], match.index);
      const after = place(chunk[1]);
      if (after === null) return [];
      const first = start === chunk[0] ? before : (place(start) ?? before);
      const last = end === chunk[1] ? after : (place(end) ?? after);
      words.push({ text: text.slice(start, end), start, end, tokens: [first, last] });
      before = after;
    }
    return words;
  }

  // A chunk without the punctuation around it, if there is more.
  core(chunk, index) {
    const characters = [...chunk];
    const inside = characters.map((one) => !this.punctuation.has(one));
    const first = inside.indexOf(true);
    if (first < 0) return [index, index + chunk.length];
    const last = inside.lastIndexOf(true) + 1;
    const start = index + characters.slice(0, first).join("").length;
    return [start, start + characters.slice(first, last).join("").length];
  }

  idsOf(piece) {
    if (!this.known.has(piece)) this.known.set(piece, this.merged(piece));
    return this.known.get(piece);
  }

  merged(piece) {
    if (piece === START || piece === END) return [this.ids.get(piece)];
    let symbols = Array.from(new TextEncoder().encode(piece), (byte) => this.bytes.get(byte));
    symbols[symbols.length - 1] += WORD_END;
    while (symbols.length > 1) {
      let best = null;
      let rank = Infinity;
      for (let index = 1; index < symbols.length; index++) {
        const pair = `${symbols[index - 1]} ${symbols[index]}`;
        const found = this.ranks.get(pair) ?? Infinity;
        if (found < rank) [best, rank] = [pair, found];
      }
      if (best === null) break;
      symbols = joined(symbols, best);
    }
    return symbols.map((symbol) => this.ids.get(symbol));
  }
}

// The character that stands for each byte: printable ones for themselves, and first.
function byteSymbols() {
  const isPrintable = (byte) =>
    (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad && byte < 0x100);
  const all = Array.from({ length: 256 }, (_, byte) => byte);
  const others = all.filter((byte) => !isPrintable(byte));
  return new Map([
    ...all.filter(isPrintable).map((byte) => [byte, String.fromCodePoint(byte)]),
    ...others.map((byte, index) => [byte, String.fromCodePoint(256 + index)]),
  ]);
}

// Every occurrence of the pair joined, from left to right.
function joined(symbols, pair) {
  const found = [];
  for (const symbol of symbols) {
    const last = found.length - 1;
    if (last >= 0 && `${found[last]} ${symbol}` === pair) found[last] += symbol;
    else found.push(symbol);
  }
  return found;
}

// What a cleaned text is cut into. It is in lower case but for the long s; U+0345, a letter to none
// and the case of one, is in no piece.
function pieces(letters, numbers) {
  const space = "\\t-\\r\\x85\\p{Z}";
  return new RegExp(
    `<\\|startoftext\\|>|<\\|endoftext\\|>|'[sſ]|'t|'re|'ve|'m|'ll|'d|` +
      `[${letters}]+|[${numbers}]|[^${space}${letters}${numbers}\\u0345]+`,
    "gu",
  );
}
