// The notebook widget in a browser, with a model that stands for the notebook's. On standard input
// { script, state, bytes }, as test_widget.py writes it.

import { text } from "node:stream/consumers";
import { open } from "./start.mjs";

const { script, state, bytes } = JSON.parse(await text(process.stdin));
const { browser, page, heard } = await open();
await page.setContent("<!doctype html><title>notebook</title><main id=cell></main>");
const seen = await page.evaluate(
  async (source, values, binary) => {
    const { default: widget } = await import(
      URL.createObjectURL(new Blob([source], { type: "text/javascript" }))
    );
    for (const name of binary) {
      const content = Uint8Array.from(atob(values[name]), (one) => one.charCodeAt(0));
      values[name] = new DataView(content.buffer);
    }
    const changed = {};
    const model = {
      get: (name) => changed[name] ?? values[name],
      set: (name, value) => (changed[name] = value),
      save_changes: () => {},
      on: () => {},
    };
    const el = document.querySelector("#cell");
    widget.render({ model, el });
    const texts = (selector) => [...el.querySelectorAll(selector)].map((one) => one.textContent);
    const canvas = el.querySelector(".seen");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const found = {
      prompts: texts(".prompts button"),
      key: texts(".key span"),
      colours: new Set(new Uint32Array(data.buffer)).size,
    };
    canvas.focus();
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp" }));
    found.reading = el.querySelector(".reading").textContent;
    el.querySelector("form input").value = "a dog";
    el.querySelector("form button").click();
    el.querySelector(".method").value = "path";
    el.querySelector(".method").dispatchEvent(new Event("change"));
    return { ...found, changed };
  },
  script,
  state,
  bytes,
);
await browser.close();
console.log(JSON.stringify({ ...seen, errors: heard.errors }));
