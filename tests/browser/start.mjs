// A headless Chromium, and what every test wants to know of a page: what it asked for, and its errors.
// Run by itself, it tells whether one starts here.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const require = createRequire(import.meta.url);
// One of the browser's own, which it asks nobody about.
const CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];

export async function open({ width = 1280, height = 900 } = {}) {
  const browser = await puppeteer.launch({
    args: [...chromium.args, "--no-sandbox", ...CAMERA],
    executablePath: await chromium.executablePath(),
    headless: "shell",
  });
  const page = await browser.newPage();
  await page.setViewport({ width, height });
  await paint(page, "light");
  const heard = { asked: [], errors: [] };
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url())) heard.asked.push(request.url());
  });
  page.on("console", (message) => {
    if (["error", "warn"].includes(message.type())) heard.errors.push(message.text());
  });
  page.on("pageerror", (error) => heard.errors.push(error.message));
  page.on("requestfailed", (request) => heard.errors.push(`failed: ${request.url()}`));
  return { browser, page, heard };
}

export function paint(page, scheme) {
  return page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
}

// What axe-core has against a page, one line each.
export async function accessibility(page) {
  if (!(await page.evaluate(() => "axe" in window))) {
    await page.evaluate(readFileSync(require.resolve("axe-core"), "utf8"));
  }
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id} at ${target}: ${failureSummary}`),
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await (await open()).browser.close();
