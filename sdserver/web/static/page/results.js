/** What comes of a tab's jobs: progress, preview, pictures, and what can be done with them. */
import { html, signal, useEffect, useState } from "../vendor/preact.js";
import { asDataUrl, request } from "./api.js";
import { drop, infotextsOf, interrupt, isOver, jobs, pictureOf, skip } from "./jobs.js";
import { attempt, notify, sendTo } from "./store.js";
import { readInfotext } from "./infotext.js";
import { openLightbox } from "./lightbox.js";

/** Which picture each tab shows: `{tab: {job, number}}`; the newest job's first where none was chosen. */
const chosen = signal({});
const choose = (tab, job, number) => {
  chosen.value = { ...chosen.value, [tab]: { job, number } };
};

const minutes = (seconds) => (seconds < 60 ? `${Math.ceil(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.ceil(seconds % 60)} s`);

const MIN_PREVIEW = 256;

/** What a job was asked for, as far as this browser knows. */
const promptOf = (job) => job.asked?.prompt ?? "";

/** How far a job is, in words. */
function stateOf(job) {
  if (job.state === "queued") return job.queue_position > 0 ? `waits as number ${job.queue_position}` : "waits";
  if (job.state === "running") {
    const count = job.images > 1 ? `, picture ${Math.min(job.images_done + 1, job.images)} of ${job.images}` : "";
    return `${Math.round(job.progress * 100)} %${count}${job.eta_seconds ? `, about ${minutes(job.eta_seconds)} left` : ""}`;
  }
  return job.state;
}

/** A job on its way. */
function Running({ job }) {
  return html`<li class="job">
    ${job.preview && html`<img class="preview" alt="Preview" src=${job.preview} style=${{ width: `${Math.max(MIN_PREVIEW, job.asked?.width ?? 0)}px` }} />`}
    <div class="bar">
      <progress max="1" value=${job.state === "queued" ? 0 : job.progress} aria-label="Progress"></progress>
      <span class="state">${stateOf(job)}</span>
      <button type="button" onClick=${() => interrupt(job.id)}>Interrupt</button>
      ${job.images > 1 && job.state === "running" && html`<button type="button" onClick=${() => skip(job.id)}>Skip</button>`}
      ${job.state === "queued" && html`<button type="button" onClick=${() => drop(job.id)}>Cancel</button>`}
    </div>
  </li>`;
}

/** Why a job has no pictures, and what to do. */
function Failure({ job }) {
  const text = job.state === "cancelled" ? "It was cancelled." : job.error?.message ?? "It failed.";
  return html`<li class="job failed" role="alert">
    <span>${text}</span>
    <button type="button" class="icon" aria-label="Close message" onClick=${() => drop(job.id)}>✕</button>
  </li>`;
}

async function dataOf(url) {
  return asDataUrl(await (await request(url)).blob());
}

/** Save a picture as the file that the server made, infotext and all. */
async function save(job, number, infotext) {
  const blob = await (await request(pictureOf(job, number))).blob();
  const link = document.createElement("a");
  const ending = { "image/jpeg": "jpg", "image/webp": "webp", "image/avif": "avif" }[blob.type] ?? "png";
  link.href = URL.createObjectURL(blob);
  link.download = `${readInfotext(infotext).seed ?? job.id}-${number}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    notify("Copied.");
  } catch {
    notify("The browser lets pages copy only over https or on localhost: select the text and copy it yourself.", "error");
  }
}

/** The shown picture with its buttons. */
function Shown({ tab, job, number, infotext }) {
  const url = pictureOf(job, number);
  const pass = (to, fields = {}) => attempt(async () => sendTo(to, { ...readInfotext(infotext), ...fields }, await dataOf(url)));
  return html`<figure class="shown">
    <button type="button" class="picture" aria-label="Show larger" onClick=${() => openLightbox(job, number)}>
      <img alt=${readInfotext(infotext).prompt || "Picture"} src=${url} />
    </button>
    <div class="bar">
      <button type="button" onClick=${() => attempt(() => save(job, number, infotext))}>Save</button>
      <button type="button" onClick=${() => pass("img2img")}>To img2img</button>
      <button type="button" onClick=${() => pass("img2img", { mode: "inpaint" })}>To inpaint</button>
      <button type="button" onClick=${() => pass("extras")}>To Extras</button>
      ${tab !== "txt2img" && html`<button type="button" onClick=${() => sendTo("txt2img", readInfotext(infotext))}>To txt2img</button>`}
      <button type="button" disabled=${!infotext} onClick=${() => copy(infotext)}>Copy infotext</button>
    </div>
    <figcaption class="infotext">${infotext}</figcaption>
  </figure>`;
}

/** A tab's jobs on their way, the shown picture, and all pictures that were made. */
export function Results({ tab, onSeed }) {
  const [isClearing, setClearing] = useState(false);
  const own = jobs.value.filter((job) => job.tab === tab);
  const done = own.filter((job) => job.state === "completed" && job.pictures > 0);
  const wanted = chosen.value[tab];
  const job = done.find((one) => one.id === wanted?.job) ?? done[0];
  const number = job && job.id === wanted?.job ? wanted.number : 0;
  const infotext = job?.infotexts?.[number] ?? "";
  useEffect(() => {
    if (job && !job.infotexts) attempt(() => infotextsOf(job));
  }, [job?.id]);
  useEffect(() => onSeed?.(readInfotext(infotext).seed), [infotext]);
  const clear = async () => {
    setClearing(true);
    await Promise.all(own.filter(isOver).map((one) => drop(one.id)));
    setClearing(false);
  };
  return html`<div class="results" aria-live="polite">
    <ul class="jobs">
      ${own.filter((one) => !isOver(one)).map((one) => html`<${Running} key=${one.id} job=${one} />`)}
      ${own.filter((one) => one.state === "failed" || one.state === "cancelled").map((one) => html`<${Failure} key=${one.id} job=${one} />`)}
    </ul>
    ${job ? html`<${Shown} tab=${tab} job=${job} number=${number} infotext=${infotext} />` : own.length === 0 && html`<p class="quiet empty">The picture appears here.</p>`}
    ${done.length > 0 && html`<ul class="thumbs" aria-label="Pictures made">
      ${done.flatMap((one) => Array.from({ length: one.pictures }, (_, at) => html`<li key=${`${one.id}/${at}`}>
        <button type="button" aria-pressed=${one.id === job?.id && at === number} title=${promptOf(one)}
          aria-label=${`Picture ${at + 1}: ${promptOf(one) || one.kind}`} onClick=${() => choose(tab, one.id, at)}>
          <img alt="" loading="lazy" src=${pictureOf(one, at)} /></button></li>`))}
    </ul>
    <button type="button" class="small" disabled=${isClearing} onClick=${clear}>Clear</button>`}
  </div>`;
}
