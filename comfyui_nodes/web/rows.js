/** The rows of a stack as the `rows` widget holds them: pure functions of JSON text and lists. */

const FIRST = { on: true, name: "", alpha: 1, alpha_te: 1, blocks: "" };

/** Return the rows that a text holds, each with all fields; null if it is no list of rows. */
export function parseRows(text) {
  if (!text?.trim()) return [];
  let rows;
  try {
    rows = JSON.parse(text);
  } catch {
    return null;
  }
  const isRow = (row) => row !== null && typeof row === "object" && !Array.isArray(row);
  if (!Array.isArray(rows) || !rows.every(isRow)) return null;
  return rows.map((row) => ({ ...FIRST, alpha_te: row.alpha ?? FIRST.alpha, ...row }));
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
