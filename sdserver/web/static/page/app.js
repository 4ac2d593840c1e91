/** The page: a head that is always there, and the tab that is shown. Tabs are loaded when first opened. */
import { html, render, useEffect, useState } from "../vendor/preact.js";
import { post } from "./api.js";
import { jobs, watchJobs } from "./jobs.js";
import { Notices, SelectField } from "./parts.js";
import { attempt, checkpoint, lists, loadOptions, notify, refresh, show, tab, theme } from "./store.js";
import { Health, watchHealth } from "./health.js";

const TABS = {
  txt2img: "txt2img",
  img2img: "img2img",
  extras: "Extras",
  pnginfo: "PNG Info",
  gallery: "Gallery",
  queue: "Queue",
  models: "Models",
  settings: "Settings",
  status: "Status",
};
const THEMES = { auto: "light", light: "dark", dark: "auto" };

async function choose(title) {
  notify(`Loading ${title}…`);
  if (await attempt(() => post("sdapi/v1/options", { sd_model_checkpoint: title }))) {
    await loadOptions();
    notify(`${title} is used now.`);
  } else {
    await loadOptions();
  }
}

function Head() {
  const choices = lists.checkpoints.value.map((one) => ({ value: one.title, label: one.title }));
  return html`<header class="head">
    <h1>sdserver</h1>
    <div class="model">
      <${SelectField} label="Checkpoint" hidden=${true} value=${checkpoint.value} choices=${choices} onChange=${choose} />
      <button type="button" class="icon" title="Look for checkpoints again" aria-label="Look for checkpoints again"
        onClick=${() => attempt(() => post("sdapi/v1/refresh-checkpoints")).then(() => refresh("checkpoints"))}>↻</button>
    </div>
    <${Health} />
    <button type="button" class="icon" title=${`Colours: ${theme.value}`} aria-label=${`Colours: ${theme.value}`}
      onClick=${() => { theme.value = THEMES[theme.value] ?? "auto"; }}>◐</button>
    <a href="docs">API</a>
  </header>`;
}

function Tabs() {
  const waiting = jobs.value.filter((job) => !job.ended).length;
  return html`<nav class="tabs" aria-label="Parts of the page">
    ${Object.entries(TABS).map(
      ([name, title]) => html`<a key=${name} href=${`#${name}`} aria-current=${tab.value === name ? "page" : undefined}>
        ${title}${name === "queue" && waiting > 0 && html` <span class="count">${waiting}</span>`}
      </a>`,
    )}
  </nav>`;
}

/** The tab's module, once it is there; each exports `Tab`. Tabs that were opened stay, hidden. */
function Panels() {
  const [opened, setOpened] = useState({});
  const name = tab.value in TABS ? tab.value : "txt2img";
  useEffect(() => {
    if (opened[name]) return;
    attempt(() => import(`./tabs/${name}.js`)).then((module) => {
      if (module) setOpened((before) => ({ ...before, [name]: module.Tab }));
    });
  }, [name]);
  return html`<main>
    ${Object.entries(opened).map(
      ([key, Tab]) => html`<section key=${key} id=${`tab-${key}`} aria-label=${TABS[key]} hidden=${key !== name}><${Tab} /></section>`,
    )}
    ${!opened[name] && html`<p class="quiet">Loading…</p>`}
  </main>`;
}

function Page() {
  return html`<${Head} /><${Tabs} /><${Panels} /><${Notices} />`;
}

if (!(tab.value in TABS)) show("txt2img");
const place = document.getElementById("page");
place.replaceChildren();
render(html`<${Page} />`, place);
loadOptions();
watchJobs();
watchHealth();
