// Texts as Python's tokenizer cleans them: what was decoded wrongly is repaired, as ftfy does it,
// HTML entities are resolved twice, white space is evened out, and letters are lower case.
//
// The tables and patterns are ftfy's and html's own (texts.py writes them); the steps are theirs.

const SPACE = "\\t-\\r\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000 ";
const SPACES = new RegExp(`[${SPACE}]+`, "gu");
const AROUND = new RegExp(`^[${SPACE}\\x1c-\\x1f]+|[${SPACE}\\x1c-\\x1f]+$`, "gu");
const REFERENCE = /&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu;
const REPLACEMENT = "\ufffd";

export class Repair {
  constructor(tables) {
    this.tables = tables;
    this.invalid = new Set(tables["no characters"]);
    this.bad = new RegExp(tables.bad, "u");
    this.embedded = new RegExp(tables.embedded, "gu");
    this.altered = new RegExp(tables.altered, "g");
    this.aGrave = new RegExp(tables["a grave"], "g");
    this.lossy = new RegExp(tables.lossy, "g");
    this.codePages = Object.entries(tables["code pages"]).map(([name, page]) => ({
      name,
      bytes: new Map([...page].map((character, byte) => [character, String.fromCharCode(byte)])),
    }));
    this.windows = tables["code pages"]["sloppy-windows-1252"];
    this.entities = this.withUpperCase(tables.entities);
    this.assigned = new RegExp(`[^${tables.unassigned}]+`, "gu"); // to Python, which may be older
    this.controls = new Set(tables.controls);
  }

  clean(text) {
    const repaired = this.unescape(this.unescape(this.fix(text))).replace(AROUND, "");
    const even = repaired.replace(SPACES, " ").replace(AROUND, "");
    return even.replace(this.assigned, (part) => part.toLowerCase());
  }

  // HTML entities, as browsers and Python's html.unescape read them.
  unescape(text) {
    return text.replace(REFERENCE, (whole, name) => {
      if (name.startsWith("#")) return this.reference(name.slice(1).replace(";", ""));
      const { entities } = this.tables;
      if (Object.hasOwn(entities, name)) return entities[name];
      for (let length = name.length - 1; length > 1; length--) {
        const start = name.slice(0, length);
        if (Object.hasOwn(entities, start)) return entities[start] + name.slice(length);
      }
      return whole;
    });
  }

  reference(number) {
    const code = /^x/i.test(number) ? parseInt(number.slice(1), 16) : parseInt(number, 10);
    const known = this.tables["wrong references"];
    if (Object.hasOwn(known, code)) return known[code];
    if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return REPLACEMENT;
    return this.invalid.has(code) ? "" : String.fromCodePoint(code);
  }

  // ftfy's entities: those that end in a semicolon, and in capitals where that is no other.
  withUpperCase(entities) {
    const found = new Map();
    for (const [name, text] of Object.entries(entities)) {
      if (!name.endsWith(";")) continue;
      found.set(`&${name}`, text);
      const upper = `&${name.toUpperCase()}`;
      if (name === name.toLowerCase() && this.unescape(upper) === upper) {
        found.set(upper, text.toUpperCase());
      }
    }
    return found;
  }

  // ftfy.fix_text: line by line; entities stay as they are from a line with "<" on.
  fix(text) {
    let entities = true;
    return text.replace(/[^\n]*\n|[^\n]+$/g, (line) => {
      entities &&= !line.includes("<");
      return this.fixLine(line, entities);
    });
  }

  fixLine(text, entities) {
    for (;;) {
      const before = text;
      if (entities) text = this.unescapeWhole(text);
      text = this.fixControls(this.fixEncoding(text));
      text = this.translated(text, this.tables.ligatures);
      text = this.translated(text, this.tables.widths);
      text = text.replace(/[\u201c-\u201f]/g, '"').replace(/[\u02bc\u2018-\u201b]/g, "'");
      text = text.replace(/\r\n|[\r\u2028\u2029\x85]/g, "\n");
      text = text.toWellFormed();
      text = text.replace(/\x1b\[[\p{Nd};]*[a-zA-Z]/gu, "");
      text = [...text].filter((character) => !this.controls.has(character)).join("");
      text = text.normalize("NFC");
      if (text === before) return text;
    }
  }

  unescapeWhole(text) {
    return text.replace(/&#?[0-9A-Za-z]{1,24};/g, (entity) => {
      if (this.entities.has(entity)) return this.entities.get(entity);
      if (!entity.startsWith("&#")) return entity;
      const found = this.unescape(entity);
      return found.includes(";") ? entity : found;
    });
  }

  translated(text, table) {
    return [...text].map((one) => (Object.hasOwn(table, one) ? table[one] : one)).join("");
  }

  fixControls(text) {
    return text.replace(/[\x80-\x9f]/g, (one) => this.windows[one.charCodeAt(0)]);
  }

  fixEncoding(text) {
    for (;;) {
      const before = text;
      text = this.fixEncodingOnce(text);
      if (text === before) return text;
    }
  }

  // Text in UTF-8 that was read in another encoding: back to its bytes, and read again.
  fixEncodingOnce(text) {
    if (/^[\x00-\x7f]*$/.test(text) || !this.bad.test(text)) return text;
    for (const { name, bytes } of this.codePages) {
      const found = encoded(text, bytes);
      if (found === null) continue;
      try {
        return decoded(this.restored(found, name));
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // it is not UTF-8
      }
    }
    const parts = text.replace(this.embedded, (part) =>
      [...part].length < [...text].length && this.bad.test(part) ? this.fixEncoding(part) : part,
    );
    return parts === text ? this.fixControls(text) : parts;
  }

  // Bytes that were lost on the way: a space that was the byte A0, others that are no more.
  restored(bytes, name) {
    if (name !== "macroman" && bytes.search(this.altered) >= 0) {
      bytes = bytes.replace(this.aGrave, "\xc3\xa0 ");
      bytes = bytes.replace(this.altered, (one) => one.replaceAll(" ", "\xa0"));
    }
    return name.startsWith("sloppy") ? bytes.replace(this.lossy, "\xef\xbf\xbd") : bytes;
  }
}

// A text as bytes, a character each, or null if it has others than the code page.
function encoded(text, bytes) {
  let found = "";
  for (const character of text) {
    const byte = bytes.get(character);
    if (byte === undefined) return null;
    found += byte;
  }
  return found;
}

// UTF-8, also with surrogates in three bytes each and zero in two; TypeError if it is not.
function decoded(bytes) {
  const parts = bytes.split(/(\xc0\x80|\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf])/);
  return parts.map((part, index) => (index % 2 ? variant(part) : strict(part))).join("");
}

function strict(bytes) {
  const array = Uint8Array.from(bytes, (one) => one.charCodeAt(0));
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(array);
}

function variant(bytes) {
  if (bytes.length === 2) return "\0";
  const [, second, third, , fifth, sixth] = [...bytes].map((one) => one.charCodeAt(0));
  const high = ((second & 0x0f) << 16) + ((third & 0x3f) << 10);
  return String.fromCodePoint(0x10000 + high + ((fifth & 0x0f) << 6) + (sixth & 0x3f));
}
