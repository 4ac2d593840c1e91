/** The files of models: which is used, what is there, and new ones by address. */
import { html, signal, useEffect, useState } from "../../vendor/preact.js";
import { ApiError, get, post, request } from "../api.js";
import { bytes, duration } from "../figures.js";
import { Section, SelectField, TextField } from "../parts.js";
import { attempt, loadOptions, notify, options, refresh, tab } from "../store.js";

const LOOK_MS = 1000;
const KINDS = { checkpoint: "Checkpoint", vae: "VAE", lora: "LoRA", embedding: "Embedding" };
const OTHERS = {
  loras: ["LoRAs", "models/Lora", "Named in a prompt as <lora:name:1>."],
  embeddings: ["Embeddings", "models/embeddings", "Named in a prompt by their name alone."],
  hypernetworks: ["Hypernetworks", "models/hypernetworks", "Named in a prompt as <hypernet:name:1>."],
  upscalers: ["Upscalers", "models/ESRGAN", "Chosen in hires. fix, img2img and Extras."],
};

/** `GET /v1/model-files`; null until it was fetched. */
const files = signal(null);

async function look() {
  files.value = (await attempt(() => get("v1/model-files"))) ?? files.value;
}

/** Have the server look at its folders, and every list of the page with it. */
async function lookAgain() {
  const found = await attempt(async () => {
    await post("sdapi/v1/refresh-checkpoints");
    await post("sdapi/v1/refresh-loras");
    await Promise.all(["checkpoints", "vaes", "loras", "hypernetworks", "upscalers"].map(renew));
    await look();
    return true;
  });
  if (found) notify("The folders were looked at again.");
}

/** Lists that no tab has read yet are fetched when one does. */
const renew = (name) => refresh(name).catch(() => undefined);

async function set(changes, text) {
  const done = await attempt(() => post("sdapi/v1/options", changes).then(() => true));
  await loadOptions();
  await look();
  if (done) notify(text);
}

function Checkpoints() {
  const [loading, setLoading] = useState("");
  const use = async (name) => {
    setLoading(name);
    await set({ sd_model_checkpoint: name }, `${name} is used now.`);
    setLoading("");
  };
  const found = files.value.checkpoints;
  return html`<section>
    <h2>Checkpoints</h2>
    ${found.length === 0 && html`<p class="quiet">There is none. Put .safetensors files into models/Stable-diffusion, or download one below.</p>`}
    <div class="scroll"><table class="files">
      <thead><tr><th>Name</th><th>Hash</th><th>Size</th><th><span class="unseen">Use</span></th></tr></thead>
      <tbody>${found.map((one) => html`<tr key=${one.name} aria-current=${one.chosen ? "true" : undefined}>
        <td class="what">${one.file}</td>
        <td>${one.hash ?? html`<span class="quiet">when it is used</span>`}</td>
        <td>${one.size === null ? html`<span class="quiet">folder</span>` : bytes(one.size)}</td>
        <td>${one.chosen ? html`<strong>in use</strong>` : html`<button type="button" class="small" disabled=${loading !== ""} aria-label=${`Use ${one.file}`}
          onClick=${() => use(one.name)}>${loading === one.name ? "Loading…" : "Use"}</button>`}</td>
      </tr>`)}</tbody>
    </table></div>
  </section>`;
}

function Vae() {
  const chosen = options.value.sd_vae ?? "Automatic";
  const choices = ["Automatic", "None", ...files.value.vaes.map((one) => one.name)];
  return html`<section>
    <h2>VAE</h2>
    <${SelectField} label="Used for all pictures" value=${chosen} choices=${choices} onChange=${(name) => set({ sd_vae: name }, `VAE: ${name}.`)} />
    <p class="quiet">Automatic takes the file that is named as the checkpoint is; None takes the one inside it. Files go into models/VAE.</p>
  </section>`;
}

function Others() {
  return html`${Object.entries(OTHERS).map(([kind, [title, folder, use]]) => {
    const found = files.value[kind];
    return html`<${Section} key=${kind} title=${`${title} (${found.length})`}>
      <p class="quiet">${use} Files go into ${folder}.</p>
      ${found.length > 0 && html`<div class="scroll"><table class="files">
        <thead><tr><th>Name</th><th>File</th><th>Size</th></tr></thead>
        <tbody>${found.map((one) => html`<tr key=${one.name}><td class="what">${one.name}</td><td class="what">${one.file}</td><td>${bytes(one.size)}</td></tr>`)}</tbody>
      </table></div>`}
    <//>`;
  })}`;
}

/** The operator's key, until the page is closed; it is kept nowhere. */
const key = signal("");

const asOperator = (path, method = "GET", body) =>
  request(path, {
    method,
    headers: { "X-Admin-Key": key.value, ...(body ? { "Content-Type": "application/json" } : {}) },
    ...(body ? { body: JSON.stringify(body) } : {}),
  }).then((answer) => answer.json());

function Transfer({ one, onDrop }) {
  const isRunning = one.state === "running";
  const far = `${bytes(one.bytes_done)}${one.bytes_total ? ` of ${bytes(one.bytes_total)}` : ""}`;
  const speed = one.bytes_per_s > 0 ? `, ${bytes(Math.round(one.bytes_per_s))} a second${one.eta_s === null ? "" : `, ${duration(one.eta_s)} left`}` : "";
  return html`<li class="job">
    <div><strong>${KINDS[one.kind]}</strong> ${one.file || one.address}</div>
    ${isRunning && html`<progress aria-label=${`Download of ${one.file || one.address}`} max="1" value=${one.bytes_total ? one.bytes_done / one.bytes_total : undefined}></progress>`}
    <div class="bar">
      <span class=${one.state === "failed" ? "bad" : "quiet"}>${isRunning ? far + speed : one.error ?? one.state}</span>
      <button type="button" class="small" onClick=${() => onDrop(one)}>${isRunning ? "Cancel" : "Forget"}</button>
    </div>
  </li>`;
}

function Download() {
  const [state, setState] = useState({ problem: "", downloads: null });
  const [fields, setFields] = useState({ url: "", kind: "checkpoint", sha256: "" });
  const bind = (name) => ({ value: fields[name], onChange: (value) => setFields({ ...fields, [name]: value }) });
  const running = state.downloads?.some((one) => one.state === "running") ?? false;

  /** Ask, and take in what is known then; errors stand beside the form. */
  const act = async (method, path = "", body = undefined) => {
    try {
      if (method !== "GET") await asOperator(`v1/models/downloads${path}`, method, body);
      const { downloads } = await asOperator("v1/models/downloads");
      setState({ problem: "", downloads });
      return true;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const isRefused = error.status === 403;
      const problem = isRefused ? "This is not the operator's key." : error.message;
      setState((before) => ({ problem, downloads: isRefused ? null : before.downloads }));
      return false;
    }
  };
  useEffect(() => {
    if (!running) return undefined;
    const timer = setInterval(() => act("GET"), LOOK_MS);
    return () => {
      clearInterval(timer);
      // It ended: the lists have what is new.
      ["checkpoints", "vaes", "loras"].forEach(renew);
      look();
    };
  }, [running]);

  const start = async (event) => {
    event.preventDefault();
    if (await act("POST", "", fields)) setFields({ ...fields, url: "", sha256: "" });
  };
  const enter = (event) => {
    event.preventDefault();
    act("GET");
  };
  const problem = state.problem && html`<p class="bad" role="alert">${state.problem}</p>`;
  if (!files.value.downloads) {
    return html`<${Section} title="Download by address">
      <p class="quiet">Models are downloaded for operators alone: start the server with --admin-key, and its key opens this. Or put files into the server's folders.</p>
    <//>`;
  }
  return html`<${Section} title="Download by address">
    ${state.downloads === null && html`<form class="plain" onSubmit=${enter}>
      <p class="quiet">The operator's key is needed (the server was started with --admin-key). It is kept until this page is closed.</p>
      <div class="bar">
        <${TextField} label="Operator's key" type="password" autocomplete="off" value=${key.value} onChange=${(value) => { key.value = value; }} />
        <button type="submit" disabled=${key.value === ""}>Go on</button>
      </div>
      ${problem}
    </form>`}
    ${state.downloads !== null && html`<form class="plain" onSubmit=${start}>
      <${TextField} label="Address: https://… of the file, a page of Hugging Face or Civitai, or hf://org/repo/file" ...${bind("url")} autocomplete="off" />
      <div class="row">
        <${SelectField} label="Kind" choices=${Object.entries(KINDS).map(([value, label]) => ({ value, label }))} ...${bind("kind")} />
        <${TextField} label="sha256 (optional)" ...${bind("sha256")} autocomplete="off" />
        <div class="bar"><button type="submit" class="primary" disabled=${running || fields.url === ""}>Download</button></div>
      </div>
      ${problem}
      <ul class="jobs">${state.downloads.map((one) => html`<${Transfer} key=${one.id} one=${one} onDrop=${() => act("DELETE", `/${one.id}`)} />`)}</ul>
    </form>`}
  <//>`;
}

export function Tab() {
  useEffect(() => {
    if (tab.value === "models") look();
  }, [tab.value, options.value.sd_model_checkpoint]);
  if (!files.value) return html`<p class="quiet">Loading…</p>`;
  return html`<div class="models-page">
    <div class="bar"><button type="button" onClick=${lookAgain}>↻ Look for files again</button></div>
    <${Checkpoints} />
    <${Vae} />
    <${Others} />
    <${Download} />
  </div>`;
}
