/** Emphasis by Ctrl+Up and Ctrl+Down, as AUTOMATIC1111's prompt box has it. Pure functions on text. */

const STEP = 0.1;
const NETWORK_STEP = 0.05;
const WORD_END = /[\s,.;:(){}[\]<>|]/;

/** The word around a place, without the punctuation beside it. */
function wordAround(text, start, end) {
  while (start > 0 && !WORD_END.test(text[start - 1])) start--;
  while (end < text.length && !WORD_END.test(text[end])) end++;
  return [start, end];
}

/** The innermost `(text:1.2)` or `<kind:name:0.8>` around a place, as its parts; null if there is none. */
function weighted(text, start, end) {
  for (const [open, close] of [["(", ")"], ["<", ">"]]) {
    const from = text.lastIndexOf(open, start === end ? start : start - 1);
    const to = text.indexOf(close, end);
    if (from < 0 || to < 0 || text.slice(from, start).includes(close)) continue;
    const inside = text.slice(from + 1, to);
    const colon = inside.lastIndexOf(":");
    const weight = Number.parseFloat(inside.slice(colon + 1));
    if (colon > 0 && Number.isFinite(weight) && /^\s*-?[\d.]+\s*$/.test(inside.slice(colon + 1))) {
      return { from, to: to + 1, open, close, body: inside.slice(0, colon), weight };
    }
  }
  return null;
}

const shown = (weight) => String(Number(weight.toFixed(2)));

/**
 * The prompt with the selected words weighted one step more or less.
 * @param {string} text the prompt
 * @param {number} start of the selection
 * @param {number} end of the selection
 * @param {1|-1} direction
 * @returns {{text: string, start: number, end: number}} the prompt and the selection after it
 */
export function emphasise(text, start, end, direction) {
  const known = weighted(text, start, end);
  if (known) {
    const { from, to, open, close, body } = known;
    const weight = known.weight + direction * (open === "<" ? NETWORK_STEP : STEP);
    const isPlain = open === "(" && shown(weight) === "1";
    const written = isPlain ? body : `${open}${body}:${shown(weight)}${close}`;
    const shift = isPlain ? 0 : 1;
    return {
      text: text.slice(0, from) + written + text.slice(to),
      start: from + shift,
      end: from + shift + body.length,
    };
  }
  const [first, last] = start === end ? wordAround(text, start, end) : [start, end];
  let stop = last;
  while (stop > first && text[stop - 1] === " ") stop--;
  if (first === stop) return { text, start, end };
  const body = text.slice(first, stop);
  const written = `(${body}:${shown(1 + direction * STEP)})`;
  return { text: text.slice(0, first) + written + text.slice(stop), start: first + 1, end: first + 1 + body.length };
}
