/** The options: sought, changed, applied together. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { get, post } from "../api.js";
import { titled } from "../figures.js";
import { bySection, isSame, keyInError, realEdits } from "../optionlist.js";
import { CheckField, NumberField, SelectField, TextField } from "../parts.js";
import { attempt, loadOptions, notify, options as current } from "../store.js";

const listed = (text) => text.split(",").map((item) => item.trim()).filter(Boolean);
const plain = (value) => (Array.isArray(value) ? value.join(", ") : value === null ? "" : String(value));
const told = (value) => (typeof value === "boolean" ? (value ? "on" : "off") : plain(value) || "empty");

/** A list as text; what is typed stays as it is typed. */
function ListField({ value, onChange, ...rest }) {
  const [text, setText] = useState(plain(value));
  useEffect(() => {
    if (!isSame(listed(text), value)) setText(plain(value));
  }, [value]);
  return html`<${TextField} value=${text} placeholder="Several, separated by commas"
    onChange=${(next) => { setText(next); onChange(listed(next)); }} ...${rest} />`;
}

/** The control that an option's kind asks for. */
function Control({ option, value, ...rest }) {
  const shared = { label: titled(option.key), value, disabled: option.read_only, ...rest };
  switch (option.kind) {
    case "switch":
      return html`<${CheckField} ...${shared} />`;
    case "choice":
      return html`<${SelectField} ...${shared} choices=${option.choices} />`;
    case "whole":
    case "number":
      return html`<${NumberField} ...${shared} min=${option.range?.[0]} max=${option.range?.[1]} step=${option.kind === "whole" ? 1 : "any"} />`;
    case "colour":
      return html`<${TextField} ...${shared} type="color" />`;
    case "list":
      return html`<${ListField} ...${shared} />`;
    default:
      return html`<${TextField} ...${shared} />`;
  }
}

function Option({ option, edit, error, onChange }) {
  const isEdited = edit !== undefined;
  const value = isEdited ? edit : option.value;
  const isDefault = isSame(value, option.default);
  const about = `about-${option.key}`;
  return html`<li class=${`option${isEdited ? " edited" : ""}`}>
    <${Control} option=${option} value=${value} onChange=${onChange} title=${option.key} aria-describedby=${about} aria-invalid=${Boolean(error)} />
    <p class="quiet" id=${about}>
      ${isEdited && html`<strong>Changed. </strong>`}
      ${option.about || "This does nothing here; it is kept for other programs."}
      ${option.read_only && " It cannot be changed here."}
      ${!isDefault && !option.read_only && html` <button type="button" class="link" aria-label=${`Default of ${titled(option.key)}`}
        onClick=${() => onChange(option.default)}>Default: ${told(option.default)}</button>`}
      ${error && html`<span class="bad" role="alert"> ${error}</span>`}
    </p>
  </li>`;
}

const idOf = (section) => `settings-${section.replace(/\W+/g, "-").toLowerCase()}`;

/** The list of sections; a link of the page itself would change the tab. */
function Contents({ sections }) {
  const go = (section) => document.getElementById(idOf(section))?.scrollIntoView({ block: "start" });
  return html`<nav class="contents" aria-label="Sections">
    ${sections.map(([section, found]) => html`<button key=${section} type="button" class="link" onClick=${() => go(section)}>${section} <span class="quiet">${found.length}</span></button>`)}
  </nav>`;
}

export function Tab() {
  const [options, setOptions] = useState(null);
  const [edits, setEdits] = useState({});
  const [errors, setErrors] = useState({});
  const [search, setSearch] = useState("");
  const [isAll, setAll] = useState(false);
  const [isSending, setSending] = useState(false);
  const load = async () => {
    const answer = await attempt(() => get("v1/options"));
    if (answer) setOptions(answer.options);
  };
  // Other tabs change options, too.
  useEffect(() => { load(); }, [current.value]);
  if (!options) return html`<p class="quiet">Loading…</p>`;

  const left = realEdits(options, edits);
  const count = Object.keys(left).length;
  const change = (key, value) => {
    setEdits((before) => ({ ...before, [key]: value }));
    setErrors((before) => ({ ...before, [key]: undefined }));
  };
  const apply = async () => {
    setSending(true);
    try {
      await post("sdapi/v1/options", left);
      setEdits({});
      setErrors({});
      notify(count === 1 ? "The option is set." : `${count} options are set.`);
      await loadOptions();
    } catch (error) {
      const key = keyInError(error.message, Object.keys(left));
      if (key) {
        setErrors({ [key]: error.message });
        setSearch("");
        requestAnimationFrame(() => document.getElementById(`about-${key}`)?.scrollIntoView({ block: "center" }));
      } else {
        notify(error.message, "error");
      }
    }
    setSending(false);
  };
  const sections = bySection(options, search, isAll);
  return html`<form class="settings-page" onSubmit=${(event) => { event.preventDefault(); apply(); }}>
    <div class="bar sticky">
      <${TextField} label="Search options" hidden=${true} placeholder="Search options" type="search" value=${search} onChange=${setSearch} />
      <${CheckField} label="Also those that do nothing here" value=${isAll} onChange=${setAll} />
    </div>
    <div class="with-contents">
      <${Contents} sections=${sections} />
      <div>
        ${sections.map(([section, found]) => html`<section key=${section} id=${idOf(section)} class="options">
          <h2>${section}</h2>
          <ul>${found.map((option) => html`<${Option} key=${option.key} option=${option} edit=${left[option.key]} error=${errors[option.key]}
            onChange=${(value) => change(option.key, value)} />`)}</ul>
        </section>`)}
        ${sections.length === 0 && html`<p class="quiet">No option has these words.${!isAll && " Those that do nothing here were not looked at."}</p>`}
      </div>
    </div>
    <div class="bar apply" hidden=${count === 0}>
      <span role="status">${count > 0 ? `${count} changed` : ""}</span>
      <button type="button" onClick=${() => { setEdits({}); setErrors({}); }}>Discard</button>
      <button type="submit" class="primary" disabled=${count === 0 || isSending}>Apply</button>
    </div>
  </form>`;
}
