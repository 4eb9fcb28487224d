// The notebook widget: maps that Python made, drawn as the page draws them. code/widget.py puts
// drawing.js before it.

import { Viewer } from "./drawing.js";

function render({ model, el }) {
  el.classList.add("clip-exploration");
  el.dataset.lmSuppressShortcuts = "true"; // keys are the widget's here, and not JupyterLab's
  el.innerHTML = `
    <div class="view"></div>
    <div class="side">
      <label>Method <select class="method"></select></label>
      <div class="prompts" role="group" aria-label="Prompts"></div>
      <form><input aria-label="Another prompt" placeholder="Another prompt" /><button>Add</button></form>
      <label>Opacity <input class="opacity" type="range" min="0" max="100" value="75" /></label>
      <label>Hide below <input class="threshold" type="range" min="0" max="100" value="0" /></label>
      <p class="problem" role="alert"></p>
    </div>`;
  const find = (selector) => el.querySelector(selector);
  const viewer = new Viewer(find(".view"), 384);
  let chosen = 0;

  const [width, height] = model.get("side");
  const picture = document.createElement("canvas");
  [picture.width, picture.height] = [width, height];
  const bytes = bytesOf(model.get("picture"));
  const pixels = new ImageData(new Uint8ClampedArray(bytes), width, height);
  picture.getContext("2d").putImageData(pixels, 0, 0);

  function change(name, value) {
    model.set(name, value);
    model.save_changes();
  }

  function draw() {
    const [prompts, scores, method] = ["prompts", "scores", "method"].map((name) => model.get(name));
    chosen = Math.min(chosen, prompts.length - 1);
    find(".method").replaceChildren(...model.get("methods").map((name) => new Option(name)));
    find(".method").value = method;
    find(".prompts").replaceChildren(
      ...prompts.map((prompt, index) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.textContent = index in scores ? `${prompt}  ${scores[index].toFixed(1)}` : prompt;
        chip.setAttribute("aria-pressed", String(index === chosen));
        chip.addEventListener("click", () => {
          chosen = index;
          draw();
        });
        return chip;
      }),
    );
    find(".problem").textContent = model.get("problem");
    const [rows, columns] = model.get("grid");
    const all = new Float32Array(bytesOf(model.get("maps")));
    const values = all.slice(chosen * rows * columns, (chosen + 1) * rows * columns);
    viewer.show({
      picture,
      from: { left: 0, top: 0, side: Math.min(width, height) },
      map: values.length ? { rows, columns, values, signed: model.get("signed") } : null,
      opacity: find(".opacity").value / 100,
      threshold: find(".threshold").value / 100,
      label: `The picture with the map of “${prompts[chosen]}” by ${method}`,
    });
  }

  function add(event) {
    event.preventDefault();
    const prompt = find("form input").value.trim();
    if (!prompt) return;
    find("form input").value = "";
    chosen = model.get("prompts").length;
    change("prompts", [...model.get("prompts"), prompt]);
  }

  find(".method").addEventListener("change", ({ target }) => change("method", target.value));
  find("form").addEventListener("submit", add);
  find("form input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) add(event); // JupyterLab's forms do not hear it
  });
  for (const slider of [".opacity", ".threshold"]) find(slider).addEventListener("input", draw);
  for (const name of ["prompts", "scores", "maps", "problem", "signed"]) {
    model.on(`change:${name}`, draw);
  }
  draw();
}

// Of a DataView, whose bytes need not be at a multiple of four.
function bytesOf(view) {
  return view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
}

export default { render };
