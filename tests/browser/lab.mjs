// The notebook widget in JupyterLab. node lab.mjs ADDRESS, of a notebook whose first cell shows it.

import { open } from "./start.mjs";

const PATIENCE = { timeout: 240000 };
const { browser, page } = await open();
const texts = (selector) =>
  page.$$eval(`.clip-exploration ${selector}`, (all) => all.map((one) => one.textContent));
await page.goto(process.argv[2], PATIENCE);
const ready = () => document.querySelector("#jp-main-statusbar")?.textContent.includes("| Idle");
await page.waitForFunction(ready, PATIENCE);
await page.click(".jp-CodeCell .cm-content");
await page.keyboard.down("Shift");
await page.keyboard.press("Enter");
await page.keyboard.up("Shift");
await page.waitForSelector(".clip-exploration .prompts button", PATIENCE);
const seen = { prompts: await texts(".prompts button") };
await page.type(".clip-exploration form input", "a dog\n");
const answered = () =>
  /\d$/.test(document.querySelector(".clip-exploration .prompts :nth-child(2)")?.textContent);
await page.waitForFunction(answered, PATIENCE);
seen.then = await texts(".prompts button");
seen.key = await texts(".key .high");
seen.colours = await page.$eval(".clip-exploration .seen", (canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
});
await browser.close();
console.log(JSON.stringify(seen));
