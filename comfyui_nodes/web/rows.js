/** The rows of a stack as the `rows` widget holds them: pure functions of JSON text and lists. */

const FIRST = { on: true, name: "", alpha: 1, alpha_te: 1, blocks: "" };

/** Return the rows that a text holds, each with all fields; null if it cannot be read. */
export function parseRows(text) {
  const rows = text.trimStart().startsWith("[") ? fromJson(text) : fromLines(text);
  return rows?.map((row) => ({ ...FIRST, ...row, alpha_te: row.alpha_te ?? row.alpha ?? 1 })) ?? null;
}

function fromJson(text) {
  try {
    const rows = JSON.parse(text);
    return rows.every((row) => typeof row?.name === "string") ? rows : null;
  } catch {
    return null;
  }
}

/** Read lines such as `style.shira: 0.8`, as scripts write them. */
function fromLines(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const rows = lines.map((line) => {
    const [, name, alpha] = line.match(/^(.*):([^:]*)$/) ?? [null, line, "1"];
    return { name: name.trim(), alpha: Number(alpha.trim() || NaN) };
  });
  return rows.every((row) => Number.isFinite(row.alpha)) ? rows : null;
}

/** Is a row's file used by another row, too? The server refuses that: the two would add up. */
export function isDouble(rows, index) {
  const { name, on } = rows[index];
  return on && rows.some((row, at) => at !== index && row.on && row.name === name);
}

/** Return the text of rows. */
export function rowsText(rows) {
  return JSON.stringify(rows);
}

/** Return rows with one more for a file. */
export function added(rows, name) {
  return [...rows, { ...FIRST, name }];
}

/** Return rows without one. */
export function without(rows, index) {
  return rows.filter((_, at) => at !== index);
}

/** Return rows with one moved up (by -1) or down (by 1); at the end it stays. */
export function moved(rows, index, by) {
  const target = index + by;
  if (target < 0 || target >= rows.length) return rows;
  const result = without(rows, index);
  result.splice(target, 0, rows[index]);
  return result;
}

/** Return rows with some fields of one changed. The text encoder's alpha follows while equal. */
export function changed(rows, index, fields) {
  return rows.map((row, at) => {
    if (at !== index) return row;
    const follows = "alpha" in fields && row.alpha_te === row.alpha;
    return { ...row, ...(follows && { alpha_te: fields.alpha }), ...fields };
  });
}
