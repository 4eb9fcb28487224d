// Opens a gallery and uses it as a reader would; prints what is seen as JSON.
import { launch } from "./start.mjs";

const [, , page_file] = process.argv;
const browser = await launch();
try {
  const page = await browser.newPage();
  const errors = [], requests = [];
  page.on("pageerror", error => errors.push(String(error)));
  page.on("console", message => message.type() === "error" && errors.push(message.text()));
  page.on("request", request => requests.push(request.url()));
  const started = Date.now();
  await page.goto(`file://${page_file}`);
  await page.waitForSelector("canvas[data-drawn]");
  const opened = Date.now() - started;
  const texts = kind => page.$$eval(`figcaption .${kind}`, all => all.map(one => one.textContent));
  const choose = async (id, value) => {
    await page.$eval(`#${id}`, (one, value) => {
      one.value = value;
      one.dispatchEvent(new Event("input"));
    }, value);
  };
  const seen = { opened, first: await texts("path"), where: await page.$eval("#where", w => w.textContent) };
  seen.targets = await page.$$eval("#target option", all => all.map(one => one.textContent));
  await choose("target", "1");
  await choose("order", "high");
  seen.sorted = (await texts("score")).map(Number);
  await choose("from", String(seen.sorted[2] - 0.01));
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
  while (await page.$eval("#after", button => !button.disabled)) {
    await page.click("#after");
    seen.pages.push(await texts("path"));
  }
  seen.problems = errors;
  seen.asked = requests.filter(url => !url.startsWith("data:"));
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
