/** The pictures that were saved on the server: sought, looked at, deleted, downloaded. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { asDataUrl, get, remove, request } from "../api.js";
import { readInfotext } from "../infotext.js";
import { showPictures } from "../lightbox.js";
import { Dialog, TextField } from "../parts.js";
import { attempt, notify, sendTo, tab } from "../store.js";

const SEARCH_MS = 350;
const encoded = (name) => name.split("/").map(encodeURIComponent).join("/");
const fileOf = (name) => new URL(`v1/gallery/files/${encoded(name)}`, document.baseURI).href;
const thumbnailOf = (name) => new URL(`v1/gallery/thumbnails/${encoded(name)}`, document.baseURI).href;
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** The list, by pages; `more` fetches the next. */
function useList(search) {
  const [state, setState] = useState({ pictures: [], after: null, isLoading: true });
  const load = async (before, after) => {
    setState({ pictures: before, after: null, isLoading: true });
    const query = new URLSearchParams({ search, ...(after ? { after } : {}) });
    const page = await attempt(() => get(`v1/gallery?${query}`));
    const pictures = [...before, ...(page?.pictures ?? [])];
    setState({ pictures, after: page?.after ?? null, isLoading: false });
    // A search looks at a bounded number of files at a time.
    if (page?.after && page.pictures.length === 0 && pictures.length < 1) await load(pictures, page.after);
  };
  useEffect(() => {
    const timer = setTimeout(() => load([], null), SEARCH_MS);
    return () => clearTimeout(timer);
  }, [search]);
  return {
    ...state,
    more: () => load(state.pictures, state.after),
    again: () => load([], null),
    without: (names) => setState({ ...state, pictures: state.pictures.filter((one) => !names.includes(one.name)) }),
  };
}

async function zip(names) {
  const headers = { "Content-Type": "application/json" };
  const answer = await request("v1/gallery/zip", { method: "POST", headers, body: JSON.stringify({ names }) });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = "pictures.zip";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** A picture's facts, and what can be done with it. */
function Details({ picture, onClose, onDelete }) {
  const { name, infotext } = picture;
  const pass = (to, fields = {}) => attempt(async () => {
    const image = await asDataUrl(await (await request(fileOf(name))).blob());
    onClose();
    sendTo(to, { ...readInfotext(infotext), ...fields }, image);
  });
  return html`<${Dialog} title=${name} onClose=${onClose}>
    <div class="shown"><button type="button" class="picture" aria-label="Show larger" onClick=${() => showPictures([fileOf(name)], 0)}>
      <img alt=${readInfotext(infotext).prompt || name} src=${fileOf(name)} /></button></div>
    <p class="quiet">${picture.width} × ${picture.height}, ${Math.ceil(picture.size / 1000)} kB, ${when.format(new Date(picture.time))}</p>
    <p class="infotext">${infotext ?? "The file does not say how it was made."}</p>
    <div class="bar">
      <a class="button" href=${fileOf(name)} download=${name.split("/").at(-1)}>Save</a>
      <button type="button" disabled=${!infotext} onClick=${() => { onClose(); sendTo("txt2img", readInfotext(infotext)); }}>To txt2img</button>
      <button type="button" onClick=${() => pass("img2img")}>To img2img</button>
      <button type="button" onClick=${() => pass("img2img", { mode: "inpaint" })}>To inpaint</button>
      <button type="button" onClick=${() => pass("extras")}>To Extras</button>
      <button type="button" onClick=${() => onDelete([name])}>Delete…</button>
    </div>
  <//>`;
}

export function Tab() {
  const [search, setSearch] = useState("");
  const [chosen, setChosen] = useState([]);
  const [opened, setOpened] = useState(null);
  const [doomed, setDoomed] = useState([]);
  const list = useList(search);
  useEffect(() => {
    if (tab.value === "gallery" && !list.isLoading) list.again();
  }, [tab.value]);
  const toggle = (name) => setChosen(chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name]);
  const destroy = async () => {
    const gone = [];
    for (const name of doomed) if (await attempt(() => remove(`v1/gallery/files/${encoded(name)}`))) gone.push(name);
    list.without(gone);
    setChosen(chosen.filter((name) => !gone.includes(name)));
    setDoomed([]);
    setOpened(null);
    if (gone.length > 0) notify(`${gone.length} deleted.`);
  };
  return html`<div class="gallery">
    <div class="bar">
      <${TextField} label="Search in prompts and names" hidden=${true} placeholder="Search in prompts and names" value=${search} onChange=${setSearch} />
      <button type="button" class="icon" aria-label="Look again" onClick=${list.again}>↻</button>
      ${chosen.length > 0 && html`<span>${chosen.length} chosen</span>
        <button type="button" onClick=${() => attempt(() => zip(chosen))}>Download zip</button>
        <button type="button" onClick=${() => setDoomed(chosen)}>Delete…</button>
        <button type="button" onClick=${() => setChosen([])}>Choose none</button>`}
    </div>
    <ul class="tiles">
      ${list.pictures.map((picture) => html`<li key=${picture.name}>
        <button type="button" class="tile" aria-label=${`Show ${picture.name}`} title=${readInfotext(picture.infotext).prompt ?? ""} onClick=${() => setOpened(picture)}>
          <img alt="" loading="lazy" src=${thumbnailOf(picture.name)} /></button>
        <input type="checkbox" aria-label=${`Choose ${picture.name}`} checked=${chosen.includes(picture.name)} onChange=${() => toggle(picture.name)} />
      </li>`)}
    </ul>
    ${list.isLoading && html`<p class="quiet">Loading…</p>`}
    ${!list.isLoading && list.pictures.length === 0 && html`<p class="quiet">${search ? "No saved picture has these words." : "No picture was saved yet."}</p>`}
    ${list.after && html`<button type="button" onClick=${list.more}>More</button>`}
    ${opened && html`<${Details} picture=${opened} onClose=${() => setOpened(null)} onDelete=${setDoomed} />`}
    ${doomed.length > 0 && html`<${Dialog} title="Delete" onClose=${() => setDoomed([])}>
      <p>${doomed.length === 1 ? `Delete ${doomed[0]}?` : `Delete these ${doomed.length} pictures?`} They cannot be brought back.</p>
      <div class="bar"><button type="button" onClick=${destroy}>Delete</button></div>
    <//>`}
  </div>`;
}
