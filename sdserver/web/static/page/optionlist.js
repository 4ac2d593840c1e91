/** The options as a list that is searched and changed. Pure functions on what `GET /v1/options` says. */

/** Whether two values of an option are the same; lists by their items. */
export const isSame = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);

/**
 * Options that have all words of a search, by section, in the server's order.
 * @param {object[]} options
 * @param {string} search words, in any case
 * @param {boolean} isAll whether options that do nothing here are shown, too
 * @returns {[string, object[]][]} sections and their options; sections without any are left out
 */
export function bySection(options, search, isAll) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const sections = new Map();
  for (const option of options) {
    if (!isAll && !option.acts) continue;
    const text = `${option.key} ${option.key.replaceAll("_", " ")} ${option.section} ${option.about}`.toLowerCase();
    if (!words.every((word) => text.includes(word))) continue;
    sections.set(option.section, [...(sections.get(option.section) ?? []), option]);
  }
  return [...sections];
}

/** The edits that are left when those that change nothing are taken out. */
export function realEdits(options, edits) {
  const values = new Map(options.map((option) => [option.key, option.value]));
  return Object.fromEntries(Object.entries(edits).filter(([key, value]) => !isSame(values.get(key), value)));
}

/** Which of the keys an error's sentence names, as `'key'`; undefined where it names none. */
export const keyInError = (message, keys) => keys.find((key) => message.includes(`'${key}'`));
