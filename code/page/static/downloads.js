// What readers take with them.

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Relevance of every cell for each prompt that was read, with its score in the second row.
export function csv(prompts, answers, method) {
  const read = prompts
    .map((prompt, index) => ({ prompt, ...answers[index] }))
    .filter(({ maps }) => maps);
  const rows = [["row", "column", ...read.map(({ prompt }) => prompt)]];
  rows.push(["score", "", ...read.map(({ score }) => score)]);
  if (read.length) {
    const [{ maps }] = read;
    const { rows: high, columns } = maps[method];
    for (let cell = 0; cell < high * columns; cell++) {
      const place = [Math.floor(cell / columns), cell % columns];
      rows.push([...place, ...read.map((one) => one.maps[method].values[cell])]);
    }
  }
  const text = rows.map((row) => row.map(quoted).join(",")).join("\r\n");
  return new Blob([`${text}\r\n`], { type: "text/csv" });
}

function quoted(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
