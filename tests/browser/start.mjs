// A headless Chromium. Run by itself, it tells whether one starts here.
import { fileURLToPath } from "node:url";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

export async function launch() {
  return puppeteer.launch({
    args: [...chromium.args, "--no-sandbox"],
    executablePath: await chromium.executablePath(),
    headless: "shell",
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await (await launch()).close();
