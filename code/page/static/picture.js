// A picture as a model reads it: the middle square, resized as Pillow and torchvision do it, so that
// scores are those of Python.

const ROWS = 256; // of a picture that are read at once
const CUBIC = -0.5; // of the kernel
const PRECISION = 2 ** 22; // of Pillow's weights, which are whole numbers
const LONGEST = 32; // times the shorter side: of a longer picture only the middle is looked at

// Values [3, side, side] of an ImageBitmap, normalised by mean and deviation. `floor`: whether the
// place of the square is rounded down, and not to even.
export function values(bitmap, { side, mean, std, floor }) {
  const bytes = square(bitmap, side, floor ? Math.floor : halfToEven);
  const found = new Float32Array(3 * side * side);
  for (let pixel = 0; pixel < side * side; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      const value = bytes[3 * pixel + colour] / 255;
      found[colour * side * side + pixel] = (value - mean[colour]) / std[colour];
    }
  }
  return found;
}

// Where in a picture the middle square is that a model sees.
export function seen({ width, height }) {
  const side = Math.min(width, height);
  return { left: (width - side) / 2, top: (height - side) / 2, side };
}

function square(bitmap, side, round) {
  const across = axis(bitmap.width, bitmap.height, side, round);
  const down = axis(bitmap.height, bitmap.width, side, round);
  return resizedDown(resizedAcross(bitmap, across, down, side), down, side);
}

// Along one side of a picture: where what is looked at begins, how long it is, and the weights of
// the pixels that each pixel of the square is made of.
function axis(length, other, side, round) {
  const start = Math.max(0, Math.floor((length - LONGEST * other) / 2));
  const whole = length - 2 * start;
  const resized = length <= other ? side : Math.trunc((side * whole) / other);
  return { start, whole, pixels: weights(whole, resized, round((resized - side) / 2), side) };
}

function halfToEven(number) {
  const floor = Math.floor(number);
  if (number - floor !== 0.5) return Math.round(number);
  return floor % 2 ? floor + 1 : floor;
}

function weights(whole, resized, first, count) {
  const scale = whole / resized;
  const stretch = Math.max(scale, 1); // the kernel grows with what is made smaller
  return Array.from({ length: count }, (_, index) => {
    const centre = (first + index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - 2 * stretch + 0.5));
    const end = Math.min(whole, Math.trunc(centre + 2 * stretch + 0.5));
    const raw = [];
    for (let at = start; at < end; at++) raw.push(kernel((at - centre + 0.5) / stretch));
    const sum = raw.reduce((one, other) => one + other, 0);
    return { start, shares: Float64Array.from(raw, (one) => roundAway((one / sum) * PRECISION)) };
  });
}

function roundAway(number) {
  return number < 0 ? Math.ceil(number - 0.5) : Math.floor(number + 0.5);
}

function kernel(x) {
  const far = Math.abs(x);
  if (far < 1) return ((CUBIC + 2) * far - (CUBIC + 3)) * far * far + 1;
  if (far < 2) return (((far - 5) * far + 8) * far - 4) * CUBIC;
  return 0;
}

function toByte(sum) {
  return Math.min(255, Math.max(0, Math.floor(sum / PRECISION + 0.5)));
}

// Rows of the picture, each resized: [row, side, 3].
function resizedAcross(bitmap, across, down, side) {
  const found = new Uint8Array(down.whole * side * 3);
  const canvas = new OffscreenCanvas(across.whole, Math.min(ROWS, down.whole));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < down.whole; top += ROWS) {
    const rows = Math.min(ROWS, down.whole - top);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, -across.start, -(down.start + top));
    const { data } = context.getImageData(0, 0, across.whole, rows);
    onWhite(data);
    for (let row = 0; row < rows; row++) {
      const from = row * across.whole * 4;
      const to = (top + row) * side * 3;
      across.pixels.forEach(({ start, shares }, column) => {
        let red = 0;
        let green = 0;
        let blue = 0;
        for (let index = 0; index < shares.length; index++) {
          const at = from + (start + index) * 4;
          red += shares[index] * data[at];
          green += shares[index] * data[at + 1];
          blue += shares[index] * data[at + 2];
        }
        found[to + column * 3] = toByte(red);
        found[to + column * 3 + 1] = toByte(green);
        found[to + column * 3 + 2] = toByte(blue);
      });
    }
  }
  return found;
}

function resizedDown(rows, down, side) {
  const found = new Uint8Array(side * side * 3);
  down.pixels.forEach(({ start, shares }, row) => {
    for (let at = 0; at < side * 3; at++) {
      let sum = 0;
      for (let index = 0; index < shares.length; index++) {
        sum += shares[index] * rows[(start + index) * side * 3 + at];
      }
      found[row * side * 3 + at] = toByte(sum);
    }
  });
  return found;
}

// Transparent parts show white.
function onWhite(data) {
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3];
    if (alpha === 255) continue;
    for (let colour = at; colour < at + 3; colour++) {
      data[colour] = Math.round((data[colour] * alpha + 255 * (255 - alpha)) / 255);
    }
  }
}
