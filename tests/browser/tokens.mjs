// The page's tokenizer. node tokens.mjs FOLDER, with the tables there and a JSON list of texts on
// standard input: their ids and words, as JSON.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { Tokenizer } from "../../code/page/static/tokenizer.js";

const read = (name) => readFileSync(join(process.argv[2], name), "utf8");
const tokenizer = new Tokenizer(read("vocabulary.txt"), JSON.parse(read("tables.json")));
const given = JSON.parse(await text(process.stdin));
const found = given.map((one) => ({
  ids: tokenizer.encode(one),
  words: given.length === 1 ? tokenizer.words(one) : [],
}));
console.log(JSON.stringify(found));
