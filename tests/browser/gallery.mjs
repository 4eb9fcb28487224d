// Opens a gallery and uses it as a reader would; prints what is seen as JSON.
import { open } from "./start.mjs";

const [, , page_file] = process.argv;
const { browser, page, heard } = await open();
try {
  const since = started => (performance.now() - started) / 1000;  // seconds
  const started = performance.now(), times = {};
  await page.goto(`file://${page_file}`);
  await page.waitForSelector("canvas[data-drawn]");
  times.open = since(started);
  const texts = kind => page.$$eval(`figcaption .${kind}`, all => all.map(one => one.textContent));
  const choose = async (id, value) => {
    const started = performance.now();
    await page.$eval(`#${id}`, (one, value) => {
      one.value = value;
      one.dispatchEvent(new Event("input"));
    }, value);
    return since(started);
  };
  const seen = { times, first: await texts("path"), where: await page.$eval("#where", w => w.textContent) };
  seen.targets = await page.$$eval("#target option", all => all.map(one => one.textContent));
  await choose("target", "1");
  times.sort = await choose("order", "high");
  seen.sorted = (await texts("score")).map(Number);
  times.filter = await choose("from", String(seen.sorted[2] - 0.01));
  seen.filtered = (await texts("score")).map(Number);
  await choose("from", "");
  await choose("name", "07");
  seen.named = await texts("path");
  await page.waitForSelector("canvas[data-drawn='1']");
  const pixels = () => page.$eval("canvas", one => {
    const { width, height } = one, context = one.getContext("2d");
    return [width, height, ...context.getImageData(0, 0, width, height).data];
  });
  seen.overlay = await pixels();
  await choose("heat", "0");
  await page.waitForSelector("canvas[data-drawn='1']");
  seen.plain = await pixels();
  await choose("name", "");
  await choose("which", "bad");
  seen.errors = await texts("error");
  await choose("which", "good");
  seen.pages = [await texts("path")];
  const turning = performance.now();
  while (await page.$eval("#after", button => !button.disabled)) {
    await page.click("#after");
    seen.pages.push(await texts("path"));
  }
  times.turn = since(turning) / seen.pages.length;
  seen.problems = heard.errors;
  seen.asked = heard.asked;
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
