/** Pictures that come in: dropped, pasted or chosen. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { asDataUrl } from "./api.js";
import { attempt } from "./store.js";

/** The pictures among what was dropped or pasted. */
const picturesOf = (transfer) => [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));

/**
 * Where pictures are dropped, pasted or chosen.
 * @param {string} label what it is for
 * @param {string|null} value a data address that is shown
 * @param {(files: File[]) => void} onFiles told what came
 * @param {boolean} several whether more than one may come
 * @param {boolean} active whether pasting anywhere on the page is meant for this
 */
export function DropZone({ label, value, onFiles, onClear, several = false, active = false, children }) {
  const input = useRef(null);
  const [isOver, setOver] = useState(false);
  const take = (files) => files.length > 0 && onFiles(several ? files : files.slice(0, 1));
  useEffect(() => {
    if (!active) return undefined;
    const onPaste = (event) => {
      const files = picturesOf(event.clipboardData);
      if (files.length > 0) {
        event.preventDefault();
        take(files);
      }
    };
    document.addEventListener("paste", onPaste);
    return () => document.removeEventListener("paste", onPaste);
  }, [active]);
  return html`<div class=${`drop${isOver ? " over" : ""}`}
    onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)}
    onDrop=${(event) => { event.preventDefault(); setOver(false); take(picturesOf(event.dataTransfer)); }}>
    <input ref=${input} class="unseen" type="file" accept="image/*" multiple=${several} aria-label=${label} tabindex="-1"
      onChange=${(event) => { take([...event.target.files]); event.target.value = ""; }} />
    ${children ?? (value && html`<img alt=${label} src=${value} />`)}
    <div class="bar">
      <button type="button" onClick=${() => input.current.click()}>${value ? "Choose another…" : `${label}: choose…`}</button>
      ${!value && html`<span class="quiet">or drop or paste it here</span>`}
      ${value && onClear && html`<button type="button" onClick=${onClear}>Remove</button>`}
    </div>
  </div>`;
}

/** Files as data addresses; what cannot be read is told. */
export const read = (files) => attempt(() => Promise.all(files.map(asDataUrl)));
