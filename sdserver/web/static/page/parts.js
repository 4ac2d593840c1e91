/** Controls that all tabs share. Each has a label; what it holds is given by `value` and `onChange`. */
import { html, useEffect, useId, useRef } from "../vendor/preact.js";
import { dismiss, notices } from "./store.js";

/** A text of one or more lines. */
export function TextField({ label, value, onChange, rows = 1, hidden = false, ...rest }) {
  const id = useId();
  const shared = { id, value: value ?? "", onInput: (event) => onChange(event.target.value), ...rest };
  return html`<div class="field">
    <label for=${id} class=${hidden ? "unseen" : ""}>${label}</label>
    ${rows > 1 ? html`<textarea rows=${rows} ...${shared}></textarea>` : html`<input type="text" ...${shared} />`}
  </div>`;
}

/** A number with a slider beside it where both ends are given. */
export function NumberField({ label, value, onChange, min, max, step = 1, slider = false, ...rest }) {
  const id = useId();
  const change = (event) => {
    const number = event.target.valueAsNumber;
    if (Number.isFinite(number)) onChange(number);
  };
  return html`<div class="field number">
    <label for=${id}>${label}</label>
    ${slider &&
    html`<input type="range" aria-label=${label} min=${min} max=${max} step=${step} value=${value} onInput=${change} />`}
    <input id=${id} type="number" min=${min} max=${max} step=${step} value=${value} onInput=${change} ...${rest} />
  </div>`;
}

/** One of several; `choices` are texts or `{value, label}`. What is not among them is shown all the same. */
export function SelectField({ label, value, onChange, choices, hidden = false, ...rest }) {
  const id = useId();
  const items = choices.map((choice) => (typeof choice === "string" ? { value: choice, label: choice } : choice));
  const isKnown = value === undefined || value === null || items.some((item) => item.value === value);
  return html`<div class="field">
    <label for=${id} class=${hidden ? "unseen" : ""}>${label}</label>
    <select id=${id} value=${value ?? ""} onChange=${(event) => onChange(event.target.value)} ...${rest}>
      ${!isKnown && html`<option value=${value}>${value}</option>`}
      ${items.map((item) => html`<option key=${item.value} value=${item.value}>${item.label}</option>`)}
    </select>
  </div>`;
}

/** Yes or no. */
export function CheckField({ label, value, onChange, ...rest }) {
  const id = useId();
  return html`<div class="field check">
    <input id=${id} type="checkbox" checked=${Boolean(value)} onChange=${(event) => onChange(event.target.checked)} ...${rest} />
    <label for=${id}>${label}</label>
  </div>`;
}

/** What opens and closes; with `onToggle` the switch in its title says whether it is used. */
export function Section({ title, open, onToggle, children }) {
  return html`<details class="section" open=${open} onToggle=${(event) => onToggle?.(event.currentTarget.open)}>
    <summary>${title}</summary>
    <div class="inside">${children}</div>
  </details>`;
}

/** A dialog over the page; Escape and its button close it. */
export function Dialog({ title, onClose, children }) {
  const element = useRef(null);
  useEffect(() => {
    element.current.showModal();
  }, []);
  return html`<dialog ref=${element} aria-label=${title} onClose=${onClose}>
    <header class="bar">
      <h2>${title}</h2>
      <button type="button" class="icon" aria-label="Close" onClick=${() => element.current.close()}>✕</button>
    </header>
    ${children}
  </dialog>`;
}

/** The messages at the page's edge. */
export function Notices() {
  return html`<div class="notices" aria-live="assertive">
    ${notices.value.map(
      (notice) => html`<p key=${notice.id} class=${`notice ${notice.kind}`} role=${notice.kind === "error" ? "alert" : "status"}>
        <span>${notice.text}</span>
        <button type="button" class="icon" aria-label="Close message" onClick=${() => dismiss(notice.id)}>✕</button>
      </p>`,
    )}
  </div>`;
}
