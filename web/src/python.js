// Texts as Python writes them: the history in the DNG is the same as the command line's.

/** Format a number with a fixed count of decimals; an exact half goes to the even digit. */
export function fixed(value, digits) {
  const text = value.toFixed(digits);
  const isHalf = Number.isInteger(value * 2 ** (digits + 1)) && !Number.isInteger(value * 2 ** digits);
  if (!isHalf) return text;
  const lower = (Math.floor(Math.abs(value) * 10 ** digits) / 10 ** digits).toFixed(digits);
  const even = Number(lower.at(-1)) % 2 === 0;
  const size = even ? lower : Math.abs(Number(text)) > Number(lower) ? text.replace("-", "") : text.replace("-", "");
  return value < 0 && Number(size) !== 0 ? `-${size}` : size;
}

/** Return JSON of texts, null, objects and floats, with Python's separators and escapes. */
export function json(value) {
  if (value === null) return "null";
  if (typeof value === "number") return Number.isInteger(value) ? `${value}.0` : String(value);
  if (typeof value === "string") {
    const escaped = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
    return JSON.stringify(value).replace(/[^ -~]/g, escaped);
  }
  return `{${Object.entries(value).map(([name, inner]) => `${json(name)}: ${json(inner)}`).join(", ")}}`;
}
