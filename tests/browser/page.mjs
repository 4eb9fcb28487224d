// Look at the page as readers do, and tell what was seen, as JSON on standard output.
//
// node page.mjs ADDRESS PICTURES SCREENSHOTS
//   PICTURES: a folder with broken.png, large.png, clear.png and odd.png; SCREENSHOTS: where they are written.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { accessibility, open, paint } from "./start.mjs";

const [address, pictures, screenshots] = process.argv.slice(2);
const { browser, page, heard } = await open();
const seen = { times: {} };

// To another view, by the page's address.
function go(fields) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of [value].flat()) search.append(name, one);
  }
  return page.evaluate((hash) => (location.hash = hash), String(search));
}

// What is done, and until the page has answered, in milliseconds.
async function explained(act) {
  const started = performance.now();
  const clear = () => {
    for (const selector of [".status", ".error"]) {
      const found = document.querySelector(selector);
      if (found) found.textContent = "";
    }
  };
  await page.evaluate(clear);
  await act();
  const answered = () =>
    document.querySelector(".status")?.textContent.includes("explained in") ||
    document.querySelector(".error")?.textContent;
  await page.waitForFunction(answered, { timeout: 60000, polling: 50 });
  return performance.now() - started;
}

const texts = (selector) =>
  page.$$eval(selector, (found) => found.map(({ textContent }) => textContent));
const scores = async () => (await texts(".score")).map(Number);

// The file that a button saves: its name, and what is in it, in base 64.
function saved(button) {
  return page.evaluate(
    (selector) =>
      new Promise((resolve) => {
        const { createObjectURL } = URL;
        const { click } = HTMLAnchorElement.prototype;
        const reader = new FileReader();
        URL.createObjectURL = (blob) => {
          reader.readAsDataURL(blob);
          return createObjectURL(blob);
        };
        HTMLAnchorElement.prototype.click = function () {
          [URL.createObjectURL, HTMLAnchorElement.prototype.click] = [createObjectURL, click];
          const name = this.download;
          reader.onload = () => resolve({ name, content: reader.result.split(",")[1] });
        };
        document.querySelector(selector).click();
      }),
    button,
  );
}

async function table() {
  const { content } = await saved("#csv");
  return Buffer.from(content, "base64").toString();
}

async function shot(name, options = {}) {
  await page.screenshot({ path: join(screenshots, `${name}.png`), ...options });
}

async function choose(menu, value, pane = 0) {
  const selects = await page.$$(`[data-menu=${menu}]`);
  await selects[pane].select(value);
}

// The first explanation, from nothing.
seen.times.first = await explained(() => page.goto(address));
seen.first = await scores();
const contents = await page.evaluate(() => fetch("contents.json").then((one) => one.json()));
seen.contents = contents;

// Every model, method and example.
seen.maps = {};
for (const { name, methods } of contents.models) {
  const asked = () => choose("model", name);
  if (name !== contents.models[0].name) seen.times[`first ${name}`] = await explained(asked);
  for (const [index, picture] of Object.keys(contents.examples).entries()) {
    const took = await explained(() => page.click(`.examples button:nth-child(${index + 1})`));
    const found = { took, scores: await scores(), tables: {} };
    for (const method of methods) {
      await choose("method", method);
      found.tables[method] = await table();
    }
    seen.maps[`${name} ${picture}`] = found;
  }
}

// Words, the pointer, keys.
await explained(() =>
  go({ picture: "horse&sheep.png", prompt: ["a horse and a sheep", "grass"] }),
);
seen.words = await page.$$eval(".word", (found) => found.map(({ textContent, title }) => [textContent, title]));
await page.click(".word:nth-of-type(2)");
await page.waitForFunction(() => document.querySelector(".saying").textContent.includes("adds"));
seen.word = { largest: await page.$eval(".key .high", ({ textContent }) => textContent) };
seen.pressed = await texts('.word[aria-pressed="true"]');
await page.click(".word:nth-of-type(2)");
const canvas = await (await page.$(".seen")).boundingBox();
await page.mouse.move(canvas.x + canvas.width * 0.25, canvas.y + canvas.height * 0.75);
seen.pointed = await page.$eval(".reading", ({ textContent }) => textContent);
await page.mouse.move(0, 0);
await page.focus(".seen");
await page.keyboard.press("ArrowRight");
seen.stepped = await page.$eval(".reading", ({ textContent }) => textContent);
await shot("keys");

// Prompts of all kinds.
seen.prompts = {};
for (const prompt of ["日本語 ñandú 👩‍🚀 Straße", "horse ".repeat(200).trim(), "<b>&amp; a \"sheep\", ok</b>"]) {
  await page.$eval("#prompt", (input, value) => (input.value = value), prompt);
  await explained(() => page.click("#add button"));
  seen.prompts[prompt] = {
    scores: await scores(),
    problems: await texts(".problem"),
    shown: await page.$eval(".sentence", ({ textContent }) => textContent),
  };
}

// Pictures of all kinds.
seen.pictures = {};
for (const name of ["clear.png", "large.png", "broken.png"]) {
  const input = await page.$("#file");
  const took = await explained(() => input.uploadFile(join(pictures, name)));
  seen.pictures[name] = {
    took,
    scores: await scores(),
    error: await page.$eval(".error", ({ textContent, hidden }) => (hidden ? "" : textContent)),
  };
}

// Dropped and pasted.
for (const [kind, field] of [["drop", "dataTransfer"], ["paste", "clipboardData"]]) {
  const bytes = [...readFileSync(join(pictures, "clear.png"))];
  await explained(() =>
    page.evaluate(
      (type, name, content) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(content)], "clear.png", { type: "image/png" }));
        const event = new Event(type, { bubbles: true, cancelable: true });
        Object.defineProperty(event, name, { value: transfer });
        document.dispatchEvent(event);
      },
      kind,
      field,
      bytes,
    ),
  );
  seen[kind] = await scores();
}

// Taken with a camera.
await page.click("#camera");
await page.waitForFunction(() => document.querySelector("#video").videoWidth > 0);
await explained(() => page.click("#take"));
seen.camera = {
  scores: await scores(),
  on: await page.$eval("#video", ({ srcObject }) => srcObject !== null),
};

// Two maps, one of them signed; colours of both schemes; a desk and a phone; who cannot see them.
seen.wrong = {};
await explained(() =>
  go({
    picture: "horse&sheep.png",
    prompt: ["a horse", "a sheep", "a dog"],
    map: ["ViT-emoji; direct; 1", "ViT-emoji; direct signed; 2"],
  }),
);
for (const [device, width, height] of [["desk", 1280, 940], ["phone", 390, 844]]) {
  for (const scheme of ["light", "dark"]) {
    await page.setViewport({ width, height });
    await paint(page, scheme);
    const name = `${device}, ${scheme}`;
    seen.wrong[name] = await accessibility(page);
    const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (tooWide > 0) seen.wrong[name].push(`${tooWide} pixels too wide`);
    await shot(name, { fullPage: device === "phone" });
  }
}
seen.keys = await texts(".key .low, .key .high");

// Sliders, by keys; pictures saved; and a view again, from its link alone.
async function press(selector, ...keys) {
  await page.focus(selector);
  for (const key of keys) await page.keyboard.press(key);
}
await explained(() =>
  go({
    picture: "horse&sheep.png",
    prompt: ["a horse", "日本 & <b>; #1"],
    map: ["ViT-emoji; path; 2", "ViT-emoji; direct; 1"],
  }),
);
await page.focus("[aria-label='Map 2'] .seen");
seen.sliders = { start: await saved("#png"), table: await table() };
await press("#threshold", ...Array(10).fill("ArrowRight"));
seen.sliders.half = await saved("#png");
await press("#opacity", "Home");
seen.sliders.bare = await saved("#png");
seen.sliders.said = await texts(".sliders output");
await press("#opacity", ...Array(8).fill("ArrowRight"));
await explained(() => page.click("#against"));
await page.focus("[aria-label='Map 2'] .seen");
const view = async () => ({ address: page.url(), png: await saved("#png"), scores: await scores() });
seen.shared = [await view()];
await page.click("#link");
await page.waitForFunction(() => document.querySelector(".status").textContent.includes("link"));
seen.said = (await texts(".status"))[0];
await page.goto("about:blank");
seen.times.again = await explained(() => page.goto(seen.shared[0].address));
await page.focus("[aria-label='Map 2'] .seen");
seen.shared.push(await view());

// A picture as models read it whose square is placed otherwise.
seen.floored = await page.evaluate(
  async (bytes, of) => {
    const { values } = await import("./picture.js");
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
    return [...values(bitmap, of)];
  },
  [...readFileSync(join(pictures, "odd.png"))],
  { side: 32, mean: [0, 0, 0], std: [1, 1, 1], floor: true },
);

seen.hosts = [...new Set(heard.asked.map((url) => new URL(url).host))];
seen.errors = heard.errors;
await browser.close();
console.log(JSON.stringify(seen));
