// Files of the page's own folder.

export async function json(path) {
  const answer = await found(path);
  return answer.json();
}

// What code/page/build.py packed. `progress` is told how many bytes have come.
export async function unpacked(path, progress = () => {}) {
  const answer = await found(path);
  const counted = new TransformStream({
    transform(part, controller) {
      progress(part.byteLength);
      controller.enqueue(part);
    },
  });
  const stream = answer.body.pipeThrough(counted).pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Bytes that were parted: those at even places, then those at odd ones.
export function joined(parted) {
  const bytes = new Uint8Array(parted.length);
  const even = Math.ceil(parted.length / 2);
  for (let index = 0; index < even; index++) bytes[2 * index] = parted[index];
  for (let index = even; index < parted.length; index++) {
    bytes[2 * (index - even) + 1] = parted[index];
  }
  return bytes;
}

export async function text(path) {
  return new TextDecoder().decode(await unpacked(path));
}

async function found(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} could not be read (${answer.status}).`);
  return answer;
}
