// Maps over pictures, their key, the value under the pointer, and words in colours. The page and the
// notebook widget draw with this.
//
// A map is { rows, columns, values, signed }: raw relevance on its grid. What is drawn is its share
// of the largest value, by colour and by how much the colour covers.

// From little to much; violet to yellow, dark to light, which all readers tell apart.
const RAMP = [
  [0.0, [59, 15, 112]],
  [0.35, [140, 41, 129]],
  [0.65, [241, 96, 93]],
  [0.85, [254, 176, 120]],
  [1.0, [252, 253, 191]],
];
// Okabe and Ito's orange and blue, as in code/word_figures.py.
const FOR = [230, 159, 0];
const AGAINST = [0, 114, 178];

const MUTED = 0.8;
const KEY_WIDTH = 256;

// The largest value of a map, for and against.
export function largest(map) {
  return map.values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

// Relevance at a place, x and y from 0 to 1 across the picture: bilinear between the cells' centres,
// as `saliency.resize_maps` enlarges maps.
export function valueAt(map, x, y) {
  const { rows, columns, values } = map;
  const column = Math.min(columns - 1, Math.max(0, x * columns - 0.5));
  const row = Math.min(rows - 1, Math.max(0, y * rows - 0.5));
  const [left, top] = [Math.floor(column), Math.floor(row)];
  const [right, bottom] = [Math.min(columns - 1, left + 1), Math.min(rows - 1, top + 1)];
  const [across, down] = [column - left, row - top];
  const upper = values[top * columns + left] * (1 - across) + values[top * columns + right] * across;
  const lower =
    values[bottom * columns + left] * (1 - across) + values[bottom * columns + right] * across;
  return upper * (1 - down) + lower * down;
}

// Red, green and blue of a share in [-1, 1].
export function colour(share, signed) {
  if (signed) return share < 0 ? AGAINST : FOR;
  const above = RAMP.findIndex(([at]) => at >= share);
  if (above <= 0) return RAMP[0][1];
  const [[low, from], [high, to]] = [RAMP[above - 1], RAMP[above]];
  const part = (share - low) / (high - low);
  return from.map((one, index) => Math.round(one + part * (to[index] - one)));
}

// How much of the picture a colour covers.
function cover(share, { opacity, threshold }) {
  const strength = Math.abs(share);
  return strength === 0 || strength < threshold ? 0 : opacity * Math.sqrt(strength);
}

// Draw a picture, cut to `from` { left, top, side }, and a map over it on the whole of a canvas.
export function draw(canvas, picture, from, map, options) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, from.left, from.top, from.side, from.side, 0, 0, width, height);
  if (!map) return;
  // Colours of the picture are muted as far as the map covers it, so that its own stand out.
  context.globalCompositeOperation = "saturation";
  context.globalAlpha = MUTED * options.opacity;
  context.fillStyle = "grey";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 1;
  context.drawImage(overlay(map, width, height, options), 0, 0);
}

function overlay(map, width, height, options) {
  const most = largest(map);
  const layer = document.createElement("canvas");
  [layer.width, layer.height] = [width, height];
  const image = new ImageData(width, height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 4) {
      const value = valueAt(map, (x + 0.5) / width, (y + 0.5) / height);
      paint(image.data, at, most ? value / most : 0, map.signed, options);
    }
  }
  layer.getContext("2d").putImageData(image, 0, 0);
  return layer;
}

function paint(data, at, share, signed, options) {
  const [red, green, blue] = colour(share, signed);
  data[at] = red;
  data[at + 1] = green;
  data[at + 2] = blue;
  data[at + 3] = Math.round(255 * cover(share, options));
}

// The key of a map: its colours as they cover grey, from none (or all against) to all for.
export function drawKey(canvas, signed, options) {
  const context = canvas.getContext("2d");
  const image = new ImageData(canvas.width, 1);
  for (let x = 0; x < canvas.width; x++) {
    const part = x / (canvas.width - 1);
    paint(image.data, 4 * x, signed ? 2 * part - 1 : part, signed, options);
  }
  const line = document.createElement("canvas");
  [line.width, line.height] = [canvas.width, 1];
  line.getContext("2d").putImageData(image, 0, 0);
  context.fillStyle = "#888";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(line, 0, 0, canvas.width, canvas.height);
}

// The colours of a word: those of code/word_figures.py, orange for and blue against.
export function wordColours(share) {
  const full = share < 0 ? AGAINST : FOR;
  const strength = Math.min(1, Math.abs(share));
  const [red, green, blue] = full.map((one) => Math.round(255 + strength * (one - 255)));
  return { background: `rgb(${red} ${green} ${blue})`, ink: share < -0.75 ? "white" : "black" };
}

export function number(value) {
  if (value === 0) return "0";
  const far = Math.abs(value);
  return far >= 0.001 && far < 10000 ? value.toPrecision(3) : value.toExponential(2);
}

// A picture with a map over it, a key, and the value under the pointer or the cross that arrow keys
// move. `show` draws anew whatever it is given.
export class Viewer {
  constructor(host, pixels = 448) {
    host.classList.add("viewer");
    host.innerHTML = `
      <div class="stage">
        <canvas class="seen" width="${pixels}" height="${pixels}" tabindex="0" role="img"></canvas>
        <span class="cross" hidden></span>
      </div>
      <div class="under">
        <div class="key">
          <span class="low"></span>
          <canvas width="${KEY_WIDTH}" height="12" aria-hidden="true"></canvas>
          <span class="high"></span>
        </div>
        <output class="reading" aria-live="polite"></output>
      </div>`;
    const find = (selector) => host.querySelector(selector);
    this.canvas = find(".seen");
    this.cross = find(".cross");
    this.key = find(".key canvas");
    this.low = find(".low");
    this.high = find(".high");
    this.reading = find(".reading");
    this.place = null;
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      this.read((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
    canvas.addEventListener("pointerleave", () => this.read(null));
    canvas.addEventListener("blur", () => this.read(null));
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const step = steps[event.key];
      if (!step || !this.map) return;
      event.preventDefault();
      const { rows, columns } = this.map;
      const [x, y] = this.place ?? [0.5, 0.5];
      const inside = (value) => Math.min(0.999, Math.max(0, value));
      this.read(inside(x + step[0] / columns), inside(y + step[1] / rows), true);
    });
  }

  // picture, from: as of `draw`; map: or null; label: what is seen, for those who do not see it.
  show({ picture, from, map, opacity, threshold, label }) {
    this.map = map;
    const options = { opacity, threshold };
    draw(this.canvas, picture, from, map, options);
    this.canvas.setAttribute("aria-label", label);
    this.key.parentElement.hidden = !map;
    if (map) {
      drawKey(this.key, map.signed, options);
      const most = number(largest(map));
      this.low.textContent = map.signed ? `−${most} against` : "0";
      this.high.textContent = map.signed ? `for ${most}` : most;
    }
    if (this.place) this.read(...this.place, !this.cross.hidden);
  }

  // Say the relevance at a place; null says none.
  read(x, y, withCross = false) {
    this.place = x === null ? null : [x, y];
    this.cross.hidden = x === null || !withCross;
    if (x === null || !this.map) {
      this.reading.textContent = "";
      return;
    }
    this.cross.style.left = `${100 * x}%`;
    this.cross.style.top = `${100 * y}%`;
    const value = valueAt(this.map, x, y);
    const most = largest(this.map);
    const share = most ? Math.round((100 * Math.abs(value)) / most) : 0;
    const which = this.map.signed && value < 0 ? "against, " : "";
    this.reading.textContent = `${number(value)} (${which}${share} % of the strongest)`;
  }
}

// A text whose words are buttons in the colours of their relevance. words: { text, start, end,
// relevance, pressed }; `choose` is told the number of a word.
export function sentence(host, text, words, choose) {
  const most = words.reduce((all, { relevance }) => Math.max(all, Math.abs(relevance)), 0);
  let before = 0;
  const parts = words.flatMap((word, index) => {
    const button = document.createElement("button");
    const colours = wordColours(most ? word.relevance / most : 0);
    button.type = "button";
    button.className = "word";
    button.textContent = word.text;
    button.title = `relevance ${number(word.relevance)}`;
    button.style.background = colours.background;
    button.style.color = colours.ink;
    button.setAttribute("aria-pressed", String(Boolean(word.pressed)));
    button.addEventListener("click", () => choose(index));
    const between = document.createTextNode(text.slice(before, word.start));
    before = word.end;
    return [between, button];
  });
  host.replaceChildren(...parts, document.createTextNode(text.slice(before)));
}
