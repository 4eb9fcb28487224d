// Renders every glyph of concepts.json in every style: <out>/<style>/<glyph>.png, 256 px wide.
// Called by render_sprites.py, which trims the images and packs them into atlases.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Resvg } from "@resvg/resvg-js";

const require = createRequire(import.meta.url);
const SIZE = 256; // twice a cell, so that trimming still leaves pixels to spare

const STYLES = [
  "noto", "noto-v1", "fxemoji", "fluent-emoji", "fluent-emoji-flat",
  "fluent-emoji-high-contrast", "twemoji", "emojione", "openmoji",
];

// What a set calls a drawing, where it is not today's CLDR name.
const OLD_NAMES = {
  emojione: { robot: "robot-face" },
  fxemoji: {
    "horse-face": "horseface", "ewe": "sheep", "cow-face": "cowface", "dog": "dogside",
    "dog-face": "dog", "cat": "catside", "cat-face": "cat", "rabbit": "bunnyside",
    "rabbit-face": "bunny", "tiger": "tigerside", "tiger-face": "tiger", "panda": "pandaface",
    "monkey-face": "monkeyface", "pig": "pigside", "pig-face": "pig", "mouse": "mouseside",
    "mouse-face": "mouse", "camel": "dromedarycamel", "two-hump-camel": "bactriancamel",
    "wolf": "wolfface", "spouting-whale": "spurtingwhale", "tropical-fish": "tropicalfish",
    "red-apple": "redapple", "green-apple": "greenapple", "ear-of-corn": "earofmaize",
    "pizza": "sliceofpizza", "soft-ice-cream": "softicecream", "ice-cream": "icecream",
    "birthday-cake": "birthdaycake", "hot-beverage": "hotbeverage",
    "deciduous-tree": "deciduoustree", "evergreen-tree": "evergreen", "palm-tree": "palmtree",
    "oncoming-automobile": "oncomingautomobile", "oncoming-bus": "oncomingbus",
    "sport-utility-vehicle": "recreationalvehicle", "locomotive": "steamlocomotive",
    "high-speed-train": "highspeedtrain", "bullet-train": "highspeedtrainbulletnose",
    "house": "housebuilding", "house-with-garden": "housewithgarden",
    "castle": "europeancastle", "japanese-castle": "japanesecastle",
    "umbrella-with-rain-drops": "umbrellawithraindrops", "alarm-clock": "alarmclock",
    "mantelpiece-clock": "manltepiececlock", "three-oclock": "clock3oclock",
    "eight-oclock": "clock8oclock", "old-key": "oldkey", "locked": "lock", "unlocked": "openlock",
    "light-bulb": "lightbulb", "closed-book": "closedbook", "green-book": "greenbook",
    "orange-book": "orangebook", "open-book": "openbook", "camera-with-flash": "camerawithflash",
    "telephone": "blacktelephone", "telephone-receiver": "telephonereceiver2",
    "scissors": "blackscissors", "top-hat": "tophat", "soccer-ball": "soccerball",
    "basketball": "basketballandhoop", "wrapped-gift": "present",
    "triangular-flag": "triangularflagonpost", "black-flag": "blackwaving",
    "snowman-without-snow": "snowmanwithoutsnow", "skull-and-crossbones": "blackskullcrossbones",
    "sun": "whitesun", "sun-with-face": "sunwithface", "crescent-moon": "crescentmoon",
    "first-quarter-moon-face": "firstquartermoonface",
    "last-quarter-moon-face": "lastquartermoonface", "full-moon": "fullmoon",
    "star": "whitemediumstar", "glowing-star": "star", "high-voltage": "bolt",
    "water-wave": "wave",
    "grinning-face": "grin", "grinning-face-with-big-eyes": "grinwide",
    "grinning-face-with-smiling-eyes": "grinwideeyes",
    "smiling-face-with-smiling-eyes": "smileeyes", "slightly-smiling-face": "smallsmile",
    "face-with-tears-of-joy": "grintears", "grinning-squinting-face": "grinsquint",
    "slightly-frowning-face": "smallfrown",
    "disappointed-face": "disappointed", "pensive-face": "pensive", "crying-face": "crying",
    "loudly-crying-face": "loudlycrying", "angry-face": "angry", "enraged-face": "pouting",
    "face-with-steam-from-nose": "triumph", "fearful-face": "fearful",
    "face-screaming-in-fear": "screamfear", "anxious-face-with-sweat": "coldsweat",
    "face-with-open-mouth": "openmouth", "hushed-face": "hushed",
    "sleeping-face": "sleeping", "sleepy-face": "sleepy",
    "smiling-face-with-heart-eyes": "hearteyes",
    "neutral-face": "neutral", "expressionless-face": "expressionless",
    "face-without-mouth": "nomouth",
  },
};

// Drawings that lie outside of their own view box, on which resvg panics.
const BROKEN = new Set(["noto-v1/2615", "noto-v1/1F685"]);

// A glyph is listed with or without the variation selector that asks for its emoji form.
function lookUp(chars, glyph) {
  const code = glyph.toLowerCase();
  return chars[code] ?? chars[code + "-fe0f"];
}

// Some sets map codepoints to icon names (`chars`). In the others an icon is found by the name
// that its codepoint has elsewhere.
function load(style) {
  const read = (file) => require(`@iconify-json/${style}/${file}.json`);
  const mapped = "./chars.json" in read("package").exports;
  return { style, set: read("icons"), chars: mapped ? read("chars") : {} };
}

// The icon's SVG, or undefined. An alias borrows its parent's drawing.
function svgOf({ style, set, chars }, glyph, names) {
  const found = lookUp(chars, glyph);
  const candidates = found ? [found] : names.map((name) => OLD_NAMES[style]?.[name] ?? name);
  for (let name of candidates) {
    while (set.aliases?.[name]) name = set.aliases[name].parent;
    const icon = set.icons[name];
    if (!icon) continue;
    const [width, height] = [icon.width ?? set.width, icon.height ?? set.height];
    const box = [icon.left ?? 0, icon.top ?? 0, width, height].join(" ");
    // currentColor, which the one-colour style draws with, is black.
    return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
      `viewBox="${box}" width="${width}" height="${height}" color="black">${icon.body}</svg>`;
  }
}

const out = process.argv[2];
const concepts = JSON.parse(readFileSync(new URL("concepts.json", import.meta.url)));
const glyphs = concepts.flatMap((concept) => concept.glyphs);
const styles = STYLES.map(load);
for (const source of styles) {
  mkdirSync(`${out}/${source.style}`, { recursive: true });
  for (const glyph of glyphs) {
    const names = new Set(styles.map(({ chars }) => lookUp(chars, glyph)).filter(Boolean));
    const svg = svgOf(source, glyph, [...names]);
    if (!svg || BROKEN.has(`${source.style}/${glyph}`)) continue;
    const image = new Resvg(svg, { fitTo: { mode: "width", value: SIZE } }).render();
    writeFileSync(`${out}/${source.style}/${glyph}.png`, image.asPng());
  }
}
