// What is looked at, and the same in the page's address, so that a view can be shared.

// picture: the name of an example, or null for one of the reader's own, which no address can hold.
// panes: one or two of { model, method, prompt }, the latter by its place.
export function initial(contents) {
  const [[picture, prompts]] = Object.entries(contents.examples);
  const [{ name, methods }] = contents.models;
  return {
    picture,
    prompts: [...prompts],
    panes: [{ model: name, method: methods[0], prompt: 0 }],
    opacity: 75,
    threshold: 0,
    against: false,
  };
}

export function toAddress(state) {
  const fields = new URLSearchParams();
  if (state.picture) fields.set("picture", state.picture);
  for (const prompt of state.prompts) fields.append("prompt", prompt);
  for (const { model, method, prompt } of state.panes) {
    fields.append("map", [model, method, prompt + 1].join("; "));
  }
  fields.set("opacity", state.opacity);
  fields.set("threshold", state.threshold);
  if (state.against) fields.set("against", "others");
  return `#${fields}`;
}

// A state from an address; what it does not say, or says wrongly, is as at first.
export function fromAddress(address, contents) {
  const state = initial(contents);
  const fields = new URLSearchParams(address.replace(/^#/, ""));
  const picture = fields.get("picture");
  if (Object.hasOwn(contents.examples, picture)) {
    state.picture = picture;
    state.prompts = [...contents.examples[picture]];
  }
  const prompts = fields.getAll("prompt").filter((prompt) => prompt.trim());
  if (prompts.length) state.prompts = prompts;
  const panes = fields.getAll("map").slice(0, 2).map((map) => paneOf(map, contents, state));
  if (panes.length && panes.every(Boolean)) state.panes = panes;
  for (const name of ["opacity", "threshold"]) {
    const value = Number.parseInt(fields.get(name), 10);
    if (value >= 0 && value <= 100) state[name] = value;
  }
  state.against = fields.get("against") === "others";
  return state;
}

function paneOf(map, contents, { prompts }) {
  const [name, method, place] = map.split("; ");
  const model = contents.models.find((one) => one.name === name);
  const prompt = Number.parseInt(place, 10) - 1;
  if (!model?.methods.includes(method) || !(prompt in prompts)) return null;
  return { model: name, method, prompt };
}
