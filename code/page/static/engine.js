// The models, in a worker of their own: whatever takes time is done here, so that the page answers.
//
// A message { id, task, ...what it takes } is answered by { id, answer } or { id, error }; and
// { progress } tells how many bytes of a model have come.

import * as runtime from "./runtime.js";
import { joined, text, unpacked } from "./files.js";
import { values } from "./picture.js";
import { Tokenizer, TooLong } from "./tokenizer.js";

runtime.env.wasm.numThreads = 1; // more need headers that static hosts do not send
const models = new Map();
let tokenizer = null;
let picture = null;

const ready = start();
ready.catch(() => {}); // whoever waits for it hears of it
const tasks = { look, explain, explainWord };

self.addEventListener("message", async ({ data: { id, task, ...given } }) => {
  try {
    self.postMessage({ id, answer: await tasks[task](given) });
  } catch (error) {
    self.postMessage({ id, error: error.message ?? String(error) });
  }
});

// Get the runtime and the tokenizer ready.
async function start() {
  const [binary, vocabulary, tables] = await Promise.all(
    [unpacked("runtime.bin"), text("vocabulary.bin"), text("tables.bin")],
  );
  runtime.env.wasm.wasmBinary = binary.buffer;
  tokenizer = new Tokenizer(vocabulary, JSON.parse(tables));
}

// Keep a picture, an ImageBitmap, in the place of the one before.
function look({ bitmap }) {
  picture?.bitmap.close();
  picture = { bitmap, values: new Map() };
}

// Maps, scores and words of prompts for the picture. Those that the model cannot read have an
// `error` instead.
async function explain({ model, prompts, against }) {
  const { image, of } = await loaded(model);
  const read = await Promise.all(prompts.map((prompt) => featuresOf(model, prompt)));
  const readable = read.filter((one) => !one.error);
  if (!readable.length) return read;
  const directions = readable.map((one) => one.features);
  const answer = await image(directions);
  const maps = against && readable.length > 1 ? await image(lessTheOthers(directions)) : answer;
  const pictured = answer.features.data.slice();
  let place = 0;
  return Promise.all(
    read.map(async (one, index) => {
      if (one.error) return one;
      const words = await relevanceOfWords(model, prompts[index], one.tokens, pictured);
      return { score: answer.scores.data[place], maps: mapsOf(of, maps, place++), words };
    }),
  );
}

// The map of what a word adds to a prompt: of the similarity with it less that without the word.
async function explainWord({ model, prompt, start, end }) {
  const { image, of } = await loaded(model);
  const [whole, without] = await Promise.all(
    [prompt, prompt.slice(0, start) + prompt.slice(end)].map((one) => featuresOf(model, one)),
  );
  const answer = await image([whole.features.map((one, index) => one - without.features[index])]);
  return { score: answer.scores.data[0], maps: mapsOf(of, answer, 0) };
}

// Each direction less the mean of the others.
function lessTheOthers(directions) {
  const count = directions.length;
  const sum = directions[0].map((_, at) => directions.reduce((all, one) => all + one[at], 0));
  return directions.map((one) => one.map((value, at) => value - (sum[at] - value) / (count - 1)));
}

function mapsOf(of, answer, place) {
  return Object.fromEntries(
    of.methods.map((method) => {
      const [, , rows, columns] = answer[method].dims;
      const start = place * rows * columns;
      const found = answer[method].data.slice(start, start + rows * columns);
      return [method, { rows, columns, values: found }];
    }),
  );
}

async function featuresOf(model, prompt) {
  const { text: read, features, of } = await loaded(model);
  if (!features.has(prompt)) {
    try {
      const tokens = tokenizer.tokens(prompt, of.length);
      const answer = await read(tokens, [new Float32Array(of.width).fill(0)]);
      features.set(prompt, { tokens, features: answer.features.data.slice() });
    } catch (error) {
      if (!(error instanceof TooLong)) throw error;
      features.set(prompt, { error: error.message });
    }
  }
  return features.get(prompt);
}

async function relevanceOfWords(model, prompt, tokens, pictured) {
  const { text: read, of } = await loaded(model);
  const answer = await read(tokens, [pictured]);
  return tokenizer.words(prompt).map(({ tokens: [first, last], ...word }) => ({
    ...word,
    relevance: Object.fromEntries(
      of.textMethods.map((method) => {
        const values = answer[method].data.slice(first, last);
        return [method, values.reduce((sum, one) => sum + one, 0)];
      }),
    ),
  }));
}

// A model that is ready to be asked. Each is fetched once.
async function loaded(of) {
  await ready;
  if (!models.has(of.name)) {
    const asked = fetched(of);
    asked.catch(() => models.delete(of.name)); // so that it can be tried again
    models.set(of.name, asked);
  }
  return models.get(of.name);
}

async function fetched(of) {
  const progress = (bytes) => self.postMessage({ progress: { model: of.name, bytes } });
  const folder = `models/${encodeURIComponent(of.name)}`;
  const [image, texts] = await Promise.all(
    ["image", "text"].map((part) => unpacked(`${folder}/${part}.bin`, progress)),
  );
  const [ofImage, ofTexts] = [await session(joined(image)), await session(joined(texts))];
  return {
    of,
    features: new Map(),
    image: (directions) => ofImage({ images: pictureFor(of), directions: matrix(directions) }),
    text: (tokens, directions) =>
      ofTexts({
        tokens: new runtime.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]),
        directions: matrix(directions),
      }),
  };
}

// What runs a graph, one question after the other.
async function session(bytes) {
  const graph = await runtime.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  let before = Promise.resolve();
  return (given) => {
    before = before.catch(() => {}).then(() => graph.run(given));
    return before;
  };
}

function matrix(rows) {
  const values = new Float32Array(rows.length * rows[0].length);
  rows.forEach((row, index) => values.set(row, index * row.length));
  return new runtime.Tensor("float32", values, [rows.length, rows[0].length]);
}

function pictureFor(of) {
  const key = JSON.stringify([of.side, of.mean, of.std, of.floor]);
  if (!picture.values.has(key)) picture.values.set(key, values(picture.bitmap, of));
  return new runtime.Tensor("float32", picture.values.get(key), [1, 3, of.side, of.side]);
}
