// The page: what is chosen on it, asked of the engine, and shown.

import { Viewer, sentence } from "./drawing.js";
import { json } from "./files.js";
import { seen } from "./picture.js";
import { csv, save } from "./downloads.js";
import { fromAddress, toAddress } from "./state.js";

const MOST_PROMPTS = 64;

const find = (selector) => document.querySelector(selector);
const parts = {
  status: find(".status"),
  progress: find(".progress"),
  error: find(".error"),
  panes: find(".panes"),
  chips: find(".chips"),
  examples: find(".examples"),
};

let contents = null;
let state = null;
let picture = null; // the bitmap, what it is called, and a number that no other has
let pictures = 0;
let active = 0; // the pane that chips choose for
let asked = 0; // how often the engine was asked: older answers are not shown
const answers = new Map(); // of the engine, by model
const views = []; // of the panes, in their order

// The engine, and what it is asked.

const worker = new Worker("engine.js", { type: "module" });
const waiting = new Map();
let messages = 0;

worker.addEventListener("message", ({ data }) => {
  if (data.progress) return progressed(data.progress);
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if ("error" in data) reject(new Error(data.error));
  else resolve(data.answer);
});
worker.addEventListener("error", () => fail("The models could not be started in this browser."));

function ask(task, given = {}, transfer = []) {
  const id = ++messages;
  worker.postMessage({ id, task, ...given }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

const came = new Map();

function progressed({ model, bytes }) {
  came.set(model, (came.get(model) ?? 0) + bytes);
  const whole = contents.models.find(({ name }) => name === model).bytes;
  parts.progress.hidden = came.get(model) >= whole * 0.999;
  parts.progress.max = whole;
  parts.progress.value = came.get(model);
}

// What is said.

function say(text) {
  parts.status.textContent = text;
}

function fail(text) {
  parts.error.textContent = text;
  parts.error.hidden = !text;
  if (text) say("");
}

// Pictures.

async function openPicture(blob, name, example = null) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    return fail(`${name} is no picture that this browser can read.`);
  }
  fail("");
  await setPicture(bitmap, name, example);
}

async function setPicture(bitmap, name, example) {
  picture?.bitmap.close();
  picture = { bitmap, name, number: ++pictures };
  const copy = await createImageBitmap(bitmap);
  await ask("look", { bitmap: copy }, [copy]);
  state.picture = example;
  answers.clear();
  for (const pane of state.panes) delete pane.word;
  await update();
}

async function openExample(name, prompts = null) {
  const answer = await fetch(`examples/${encodeURIComponent(name)}`);
  if (prompts) {
    state.prompts = [...prompts];
    for (const pane of state.panes) pane.prompt = Math.min(pane.prompt, prompts.length - 1);
  }
  await openPicture(await answer.blob(), name, name);
}

function openFiles(files) {
  const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (file) openPicture(file, file.name || "The picture");
}

// From the state to what is seen.

function modelOf(pane) {
  return contents.models.find(({ name }) => name === pane.model);
}

function keyOf(pane) {
  return JSON.stringify([pane.model, picture.number, state.prompts, state.against]);
}

async function update() {
  history.replaceState(null, "", toAddress(state));
  drawControls();
  drawPanes();
  if (!picture || !state.prompts.length) return;
  const turn = ++asked;
  const started = performance.now();
  const missing = state.panes.filter((pane) => !answers.has(keyOf(pane)));
  if (missing.length) {
    say("Looking…");
    parts.panes.setAttribute("aria-busy", "true");
  }
  try {
    for (const pane of missing) {
      const [key, { prompts, against }] = [keyOf(pane), state];
      const found = await ask("explain", { model: modelOf(pane), prompts, against });
      answers.set(key, found);
    }
  } catch (error) {
    if (turn === asked) fail(error.message);
    return;
  } finally {
    parts.progress.hidden = true;
  }
  if (turn !== asked) return;
  parts.panes.removeAttribute("aria-busy");
  if (missing.length) say(`${picture.name}, explained in ${seconds(performance.now() - started)}.`);
  drawControls();
  drawPanes();
}

function seconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(milliseconds < 10000 ? 2 : 0)} s`;
}

function answerOf(pane) {
  return picture ? answers.get(keyOf(pane))?.[pane.prompt] : undefined;
}

function drawControls() {
  for (const button of parts.examples.children) {
    button.setAttribute("aria-pressed", String(button.dataset.name === state.picture));
  }
  for (const name of ["opacity", "threshold"]) {
    find(`#${name}`).value = state[name];
    find(`output[for=${name}]`).textContent = `${state[name]} %`;
  }
  find("#against").checked = state.against;
  find("#against").disabled = state.prompts.length < 2;
  find("#compare").checked = state.panes.length > 1;
  drawChips();
}

function drawChips() {
  const pane = state.panes[active];
  const all = (picture && answers.get(keyOf(pane))) ?? [];
  const scores = all.map((one) => one.score ?? 0);
  const most = Math.max(...scores, 1e-9);
  const focused = document.activeElement?.dataset.focus;
  parts.chips.replaceChildren(
    ...state.prompts.map((prompt, index) => chip(prompt, index, all[index], most)),
  );
  if (focused) parts.chips.querySelector(`[data-focus="${focused}"]`)?.focus();
}

function chip(prompt, index, answer, most) {
  const item = element("li", { className: "chip" });
  const chosen = state.panes[active].prompt === index;
  item.classList.toggle("chosen", chosen);
  const choose = element("button", { type: "button", className: "choose", title: prompt });
  choose.dataset.focus = `choose ${index}`;
  choose.setAttribute("aria-pressed", String(chosen));
  choose.append(element("span", { className: "said", textContent: prompt }));
  if (answer?.score !== undefined) {
    choose.append(element("span", { className: "score", textContent: answer.score.toFixed(1) }));
    const bar = element("span", { className: "bar" });
    bar.style.width = `calc(${Math.max(0, (100 * answer.score) / most)}% - 1.5rem)`;
    choose.append(bar);
  }
  choose.addEventListener("click", () => choosePrompt(index));
  const remove = element("button", { type: "button", className: "remove", textContent: "×" });
  remove.dataset.focus = `remove ${index}`;
  remove.setAttribute("aria-label", `Remove ${prompt}`);
  remove.disabled = state.prompts.length === 1;
  remove.addEventListener("click", () => removePrompt(index));
  item.append(choose, remove);
  if (answer?.error) {
    item.append(element("p", { className: "problem", textContent: answer.error }));
  }
  return item;
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

function drawPanes() {
  parts.panes.classList.toggle("two", state.panes.length > 1);
  while (views.length > state.panes.length) views.pop().host.remove();
  while (views.length < state.panes.length) views.push(new Pane(views.length));
  views.forEach((view) => view.draw());
}

class Pane {
  constructor(index) {
    this.index = index;
    this.host = element("article", { className: "pane" });
    this.host.innerHTML = `
      <div class="menus">
        <label>Model <select data-menu="model"></select></label>
        <label>Method <select data-menu="method"></select></label>
        <label>Prompt <select data-menu="prompt"></select></label>
      </div>
      <div class="view"></div>
      <p class="saying"></p>
      <p class="sentence"></p>`;
    this.viewer = new Viewer(this.host.querySelector(".view"));
    for (const menu of this.host.querySelectorAll("select")) {
      menu.addEventListener("change", () => this.change(menu.dataset.menu, menu.value));
    }
    this.host.addEventListener("focusin", () => activate(this.index));
    this.host.addEventListener("pointerdown", () => activate(this.index));
    parts.panes.append(this.host);
  }

  get pane() {
    return state.panes[this.index];
  }

  change(menu, value) {
    const { pane } = this;
    pane[menu] = menu === "prompt" ? Number(value) : value;
    if (menu !== "method") delete pane.word;
    const { methods } = modelOf(pane);
    if (!methods.includes(pane.method)) pane.method = methods[0];
    if (pane.word) this.chooseWord(pane.word.index, true);
    else update();
  }

  draw() {
    const { pane } = this;
    const answer = answerOf(pane);
    const which = state.panes.length > 1 ? `Map ${this.index + 1}` : "Map";
    this.host.setAttribute("aria-label", which);
    this.fill("model", contents.models.map(({ name }) => [name, name]), pane.model);
    this.fill("method", modelOf(pane).methods.map((name) => [name, name]), pane.method);
    this.fill("prompt", state.prompts.map((prompt, index) => [index, prompt]), pane.prompt);
    const prompt = state.prompts[pane.prompt];
    const map = this.map(answer);
    if (picture) {
      this.viewer.show({
        picture: picture.bitmap,
        from: seen(picture.bitmap),
        map,
        opacity: state.opacity / 100,
        threshold: state.threshold / 100,
        label: this.label(prompt, map),
      });
    }
    this.host.querySelector(".saying").textContent = this.saying(answer);
    const host = this.host.querySelector(".sentence");
    if (!answer?.words) return host.replaceChildren();
    const method = map?.signed ? "path signed" : "path"; // the default for texts
    const words = answer.words.map((word, index) => ({
      ...word,
      relevance: word.relevance[method],
      pressed: pane.word?.index === index,
    }));
    const focused = [...host.children].indexOf(document.activeElement);
    sentence(host, prompt, words, (index) => this.chooseWord(index));
    if (focused >= 0) host.children[focused]?.focus();
  }

  map(answer) {
    const { pane } = this;
    const maps = pane.word?.maps ?? answer?.maps;
    if (!maps?.[pane.method]) return null;
    return { ...maps[pane.method], signed: modelOf(pane).signed.includes(pane.method) };
  }

  label(prompt, map) {
    if (!map) return "The picture";
    const { values, rows, columns } = map;
    const at = values.indexOf(values.reduce((one, other) => Math.max(one, other)));
    const down = Math.round((100 * (Math.floor(at / columns) + 0.5)) / rows);
    const across = Math.round((100 * ((at % columns) + 0.5)) / columns);
    return (
      `The picture with the map of “${prompt}” by ${this.pane.method}: most relevant ` +
      `${across} % from the left and ${down} % from the top. Arrow keys read values.`
    );
  }

  saying(answer) {
    const { word } = this.pane;
    if (!answer) return "";
    if (answer.error) return answer.error;
    if (word) {
      return `What “${word.text}” adds to the similarity: ${word.score.toFixed(1)}. Select it again for the whole prompt.`;
    }
    return answer.words.length
      ? "Which words speak for the picture; select one for where it is seen."
      : "Which of the tokens are which word’s cannot be told of this prompt.";
  }

  fill(menu, options, chosen) {
    const select = this.host.querySelector(`[data-menu=${menu}]`);
    select.replaceChildren(
      ...options.map(([value, text]) => element("option", { value, textContent: text })),
    );
    select.value = chosen;
  }

  async chooseWord(index, again = false) {
    const { pane } = this;
    if (pane.word?.index === index && !again) {
      delete pane.word;
      return drawPanes();
    }
    const prompt = state.prompts[pane.prompt];
    const word = answerOf(pane).words[index];
    const turn = ++asked;
    try {
      const found = await ask("explainWord", { model: modelOf(pane), prompt, ...word });
      if (turn === asked) pane.word = { ...found, index, text: word.text };
    } catch (error) {
      fail(error.message);
    }
    drawPanes();
  }
}

function activate(index) {
  if (index === active) return;
  active = index;
  drawChips();
}

// What is done.

function choosePrompt(index) {
  state.panes[active].prompt = index;
  delete state.panes[active].word;
  update();
}

function removePrompt(index) {
  state.prompts.splice(index, 1);
  for (const pane of state.panes) {
    if (pane.prompt >= index) pane.prompt = Math.max(0, pane.prompt - 1);
    delete pane.word;
  }
  update();
}

function addPrompt(prompt) {
  if (!prompt) return;
  if (state.prompts.length === MOST_PROMPTS) {
    return fail(`${MOST_PROMPTS} prompts are as many as fit: remove one first.`);
  }
  fail("");
  if (!state.prompts.includes(prompt)) state.prompts.push(prompt);
  state.panes[active].prompt = state.prompts.indexOf(prompt);
  delete state.panes[active].word;
  update();
}

function compare(two) {
  active = 0;
  if (!two) state.panes.length = 1;
  else {
    const [first] = state.panes;
    const prompt = (first.prompt + 1) % state.prompts.length;
    state.panes.push({ model: first.model, method: first.method, prompt });
  }
  update();
}

async function useCamera() {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    find("#video").srcObject = stream;
    find("#taking").hidden = false;
    await find("#video").play();
    find("#take").focus();
  } catch {
    fail("There is no camera that this page may use.");
  }
}

function leaveCamera() {
  const video = find("#video");
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  find("#taking").hidden = true;
  find("#camera").focus();
}

async function takePicture() {
  const bitmap = await createImageBitmap(find("#video"));
  leaveCamera();
  await setPicture(bitmap, "The camera’s picture", null);
}

function fileName(ending) {
  const { model, method } = state.panes[active];
  const of = picture.name.replace(/\.\w+$/, "");
  return `${of}, ${model}, ${method}.${ending}`;
}

function savePicture() {
  views[active].viewer.canvas.toBlob((blob) => save(blob, fileName("png")));
}

function saveNumbers() {
  const pane = state.panes[active];
  const all = answers.get(keyOf(pane)) ?? [];
  save(csv(state.prompts, all, pane.method), fileName("csv"));
}

async function copyLink() {
  const own = state.picture ? "" : " Your own picture is not in it: it never leaves this browser.";
  try {
    await navigator.clipboard.writeText(location.href);
    say(`The link to this view is copied.${own}`);
  } catch {
    say(`The address of this page is the link to this view.${own}`);
  }
}

function listen() {
  find("#file").addEventListener("change", ({ target }) => {
    openFiles(target.files);
    target.value = "";
  });
  find("#add").addEventListener("submit", (event) => {
    event.preventDefault();
    addPrompt(find("#prompt").value.trim());
    find("#prompt").value = "";
  });
  for (const name of ["opacity", "threshold"]) {
    find(`#${name}`).addEventListener("input", ({ target }) => {
      state[name] = Number(target.value);
      drawControls();
      drawPanes();
    });
    find(`#${name}`).addEventListener("change", update);
  }
  find("#against").addEventListener("change", ({ target }) => {
    state.against = target.checked;
    update();
  });
  find("#compare").addEventListener("change", ({ target }) => compare(target.checked));
  find("#png").addEventListener("click", savePicture);
  find("#csv").addEventListener("click", saveNumbers);
  find("#link").addEventListener("click", copyLink);
  find("#camera").addEventListener("click", useCamera);
  find("#take").addEventListener("click", takePicture);
  find("#leave").addEventListener("click", leaveCamera);
  find("#known").addEventListener("click", ({ target }) => {
    const list = find("#concept-list");
    list.hidden = !list.hidden;
    target.setAttribute("aria-expanded", String(!list.hidden));
  });
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) openFiles(clipboardData.files);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    find(".drop").hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) find(".drop").hidden = true;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    find(".drop").hidden = true;
    openFiles(event.dataTransfer.files);
  });
  window.addEventListener("hashchange", async () => {
    const before = state.picture;
    state = fromAddress(location.hash, contents);
    active = 0;
    if (state.picture !== before && new URLSearchParams(location.hash.slice(1)).has("picture")) {
      await openExample(state.picture);
    } else update();
  });
}

function fillExamples() {
  parts.examples.replaceChildren(
    ...Object.entries(contents.examples).map(([name, prompts]) => {
      const shown = name.replace(/\.\w+$/, "").replaceAll("&", " and ");
      const button = element("button", { type: "button", title: shown });
      button.dataset.name = name;
      button.append(element("img", { src: `examples/${encodeURIComponent(name)}`, alt: shown }));
      button.addEventListener("click", () => openExample(name, prompts));
      return button;
    }),
  );
}

function fillConcepts() {
  const { concepts } = contents;
  find(".about").hidden = !concepts.length;
  find("#known").textContent = `${concepts.length} things`;
  find("#concept-list").textContent = `${concepts.join(", ")}.`;
  find("#concepts").replaceChildren(...concepts.map((value) => element("option", { value })));
}

async function main() {
  contents = await json("contents.json");
  state = fromAddress(location.hash, contents);
  fillExamples();
  fillConcepts();
  listen();
  say("Fetching the models…");
  await openExample(state.picture);
}

main().catch((error) => fail(error.message));
