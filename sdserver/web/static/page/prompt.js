/** The two prompts, with styles, networks and the token counter. */
import { html, signal, useEffect, useRef, useState } from "../vendor/preact.js";
import { get, post } from "./api.js";
import { emphasise } from "./emphasis.js";
import { Dialog, TextField } from "./parts.js";
import { attempt, lists, notify, refresh } from "./store.js";

const COUNT_MS = 300;

/** How many tokens a prompt has, and how many fit its chunks: "12/75". */
function Counter({ text, label }) {
  const [count, setCount] = useState(null);
  useEffect(() => {
    let isCurrent = true;
    const timer = setTimeout(async () => {
      const answer = await post("v1/tokens", { prompt: text }).catch(() => null);
      if (isCurrent) setCount(answer);
    }, COUNT_MS);
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [text]);
  if (!count) return null;
  return html`<output class="counter" title=${`${label}: tokens, and what its chunks of 75 hold`}>${count.tokens}/${count.limit}</output>`;
}

function PromptBox({ label, value, onChange, rows, onGenerate, placeholder }) {
  const box = useRef(null);
  const onKeyDown = (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    if (event.key === "Enter") {
      event.preventDefault();
      onGenerate();
    } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      event.preventDefault();
      const area = event.currentTarget;
      const after = emphasise(area.value, area.selectionStart, area.selectionEnd, event.key === "ArrowUp" ? 1 : -1);
      // At once: the next key may come before the page is drawn again.
      area.value = after.text;
      area.setSelectionRange(after.start, after.end);
      onChange(after.text);
    }
  };
  return html`<div class="prompt" ref=${box}>
    <${TextField} label=${label} hidden=${true} rows=${rows} value=${value} onChange=${onChange}
      onKeyDown=${onKeyDown} placeholder=${placeholder} spellcheck=${false} />
    <${Counter} text=${value ?? ""} label=${label} />
  </div>`;
}

/** Styles that are laid over the prompts when the request is sent. */
function Styles({ form }) {
  const chosen = form.value.value.styles ?? [];
  const names = lists.styles.value.map((style) => style.name).filter((name) => !chosen.includes(name));
  if (names.length === 0 && chosen.length === 0) return null;
  const set = (styles) => form.set({ styles });
  return html`<div class="styles">
    <select aria-label="Add a style" value="" onChange=${(event) => event.target.value && set([...chosen, event.target.value])}>
      <option value="">Styles…</option>
      ${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select>
    ${chosen.map((name) => html`<button key=${name} type="button" class="chip" aria-label=${`Remove the style ${name}`}
      onClick=${() => set(chosen.filter((one) => one !== name))}>${name} ✕</button>`)}
  </div>`;
}

const KINDS = {
  lora: { title: "LoRA", list: "loras", again: "sdapi/v1/refresh-loras", tag: (card) => `<lora:${card.alias || card.name}:1>` },
  hypernetwork: { title: "Hypernetworks", list: "hypernetworks", tag: (card) => `<hypernet:${card.name}:1>` },
};

const PAGES = { lora: "lora", hypernetwork: "hypernetworks", embedding: "textual inversion" };

/** A card's picture, or its initial where there is none. */
function Thumbnail({ card, place }) {
  if (!place) return html`<span class="initial" aria-hidden="true">${[...card.name][0]}</span>`;
  return html`<img alt="" loading="lazy" src=${`sd_extra_networks/thumb?filename=${encodeURIComponent(place)}`} />`;
}

const embeddings = signal([]);
/** Where the cards' pictures are, by the cards' names, for each kind. */
const pictures = signal({});

async function lookForPictures(kind) {
  const found = await attempt(() => get(`sd_extra_networks/pictures?page=${encodeURIComponent(PAGES[kind])}`));
  if (found) pictures.value = { ...pictures.peek(), [kind]: found.pictures };
}

/** All that a prompt can name: LoRAs, hypernetworks, embeddings. */
function Networks({ form, onClose }) {
  const [kind, setKind] = useState("lora");
  const [sought, setSought] = useState("");
  useEffect(() => {
    attempt(() => get("sdapi/v1/embeddings")).then((found) => {
      if (found) embeddings.value = Object.keys(found.loaded).map((name) => ({ name }));
    });
  }, []);
  useEffect(() => void lookForPictures(kind), [kind]);
  const cards = kind === "embedding" ? embeddings.value : lists[KINDS[kind].list].value;
  const shown = cards.filter((card) => card.name.toLowerCase().includes(sought.toLowerCase()));
  const add = (card) => {
    const text = kind === "embedding" ? card.name : KINDS[kind].tag(card);
    const prompt = form.value.value.prompt ?? "";
    form.set({ prompt: prompt.trimEnd() + (prompt.trim() ? " " : "") + text });
    notify(`${card.name} was added to the prompt.`);
  };
  return html`<${Dialog} title="Networks" onClose=${onClose}>
    <div class="bar">
      ${[...Object.entries(KINDS).map(([name, one]) => [name, one.title]), ["embedding", "Embeddings"]].map(
        ([name, title]) => html`<button key=${name} type="button" aria-pressed=${kind === name} onClick=${() => setKind(name)}>${title}</button>`,
      )}
      <${TextField} label="Search" hidden=${true} placeholder="Search" value=${sought} onChange=${setSought} />
      ${KINDS[kind]?.again && html`<button type="button" class="icon" aria-label="Look for files again"
        onClick=${() => attempt(() => post(KINDS[kind].again)).then(() => Promise.all([refresh(KINDS[kind].list), lookForPictures(kind)]))}>↻</button>`}
    </div>
    <ul class="cards">
      ${shown.map((card) => html`<li key=${card.name}><button type="button" class="card" onClick=${() => add(card)}>
        <${Thumbnail} card=${card} place=${pictures.value[kind]?.[card.name]} /><span>${card.name}</span></button></li>`)}
    </ul>
    ${shown.length === 0 && html`<p class="quiet">There is nothing here. Files of this kind go into the folder models/ of the server.</p>`}
  <//>`;
}

/** Everything above the settings. `onGenerate` is called by Ctrl+Enter. */
export function Prompts({ form, onGenerate }) {
  const [isPicking, setPicking] = useState(false);
  return html`<div class="prompts">
    <${PromptBox} label="Prompt" rows=${3} placeholder="Prompt (Ctrl+Enter generates)" ...${form.bind("prompt")} onGenerate=${onGenerate} />
    <${PromptBox} label="Negative prompt" rows=${2} placeholder="Negative prompt" ...${form.bind("negative_prompt")} onGenerate=${onGenerate} />
    <div class="bar">
      <${Styles} form=${form} />
      <button type="button" onClick=${() => setPicking(true)}>Networks…</button>
    </div>
    ${isPicking && html`<${Networks} form=${form} onClose=${() => setPicking(false)} />`}
  </div>`;
}
