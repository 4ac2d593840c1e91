/**
 * The node's jobs, kept in step with the server by one stream of events. Those that this page sent are
 * remembered in this browser, so that a reload in mid-job loses nothing.
 */
import { effect, signal } from "../vendor/preact.js";
import { ApiError, get, post, remove } from "./api.js";
import { attempt, keep, onKept, recall } from "./store.js";

const REMEMBERED = 100;
const TITLE = document.title;
const RECONNECT_MS = 2000;
const LOST = "The server was started anew before this was done: generate it again.";
const OVER = new Set(["completed", "failed", "cancelled"]);

/**
 * All jobs known, newest first: what `GET /v1/jobs` says of each, and
 * `tab` (which tab of this page sent it, or null), `asked` (the body it was sent with, without pictures),
 * `preview` (a data address or null), `infotexts` (once completed and fetched).
 */
export const jobs = signal([]);

const mine = new Map();

/** Take over what any window of this browser sent. */
function adopt() {
  const sent = recall("jobs", []).filter((job) => !mine.has(job.id));
  sent.forEach((job) => mine.set(job.id, job));
  const ids = new Set(sent.map((job) => job.id));
  jobs.peek().filter((job) => ids.has(job.id)).forEach(merge);
}

function remember(id, tab, asked) {
  adopt();
  mine.set(id, { id, tab, asked });
  const last = [...mine.values()].slice(-REMEMBERED);
  mine.clear();
  last.forEach((job) => mine.set(job.id, job));
  keep("jobs", last);
}

/** Whether a job has ended. */
export const isOver = (job) => OVER.has(job.state);

/** Where a job's n-th picture is. */
export const pictureOf = (job, number) => new URL(`v1/jobs/${encodeURIComponent(job.id)}/images/${number}`, document.baseURI).href;

function merge(changed) {
  const before = jobs.peek().find((job) => job.id === changed.id);
  const own = mine.get(changed.id);
  const job = { preview: null, ...before, ...changed, tab: own?.tab ?? null, asked: own?.asked ?? null };
  if (isOver(job)) job.preview = null;
  const others = jobs.peek().filter((one) => one.id !== job.id);
  const at = others.findIndex((one) => (one.created ?? "") < (job.created ?? ""));
  jobs.value = at < 0 ? [...others, job] : [...others.slice(0, at), job, ...others.slice(at)];
}

/** Fetch the list as it is now: after a reload, and whenever the stream broke. */
async function resume() {
  const before = jobs.peek().filter((job) => !isOver(job));
  const { jobs: known = [] } = (await get("v1/jobs?limit=200")) ?? {};
  known.forEach(merge);
  const ids = new Set(known.map((job) => job.id));
  before.filter((job) => !ids.has(job.id)).forEach((job) => merge({ id: job.id, state: "failed", error: { message: LOST } }));
}

function follow() {
  const stream = new EventSource(new URL("v1/events?previews=true", document.baseURI));
  for (const name of ["state", "progress", "end"]) {
    stream.addEventListener(name, (event) => merge(JSON.parse(event.data)));
  }
  stream.addEventListener("preview", (event) => {
    const { id, media_type: type, image } = JSON.parse(event.data);
    merge({ id, preview: `data:${type};base64,${image}` });
  });
  stream.addEventListener("open", () => resume().catch(() => undefined));
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, RECONNECT_MS);
  });
  return stream;
}

/** Keep `jobs` in step from now on. */
export function watchJobs() {
  adopt();
  onKept("jobs", adopt);
  effect(() => {
    const running = jobs.value.find((job) => job.tab && job.state === "running");
    document.title = running ? `[${Math.round(running.progress * 100)}%] ${TITLE}` : TITLE;
  });
  follow();
}

/** A request's fields but its pictures, which would fill the browser's storage. */
const withoutPictures = (body) =>
  JSON.parse(JSON.stringify(body, (_, value) => (typeof value === "string" && value.startsWith("data:") ? undefined : value)));

/**
 * Send a request as a job.
 * @param {string} tab the tab that shows what comes of it
 * @param {"txt2img"|"img2img"|"extras"} kind
 * @param {object} body as the route of that kind takes it
 * @returns {Promise<string>} the job's id
 */
export async function submit(tab, kind, body) {
  const id = `page-${crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`}`;
  remember(id, tab, withoutPictures(body));
  try {
    const job = await post("v1/jobs", { kind, request: { ...body, force_task_id: id } });
    // Kinds whose requests cannot be named get another id.
    if (job.id !== id) remember(job.id, tab, withoutPictures(body));
    merge(job);
    return job.id;
  } catch (error) {
    // Without an answer nobody knows whether it was taken: the list tells once the server is back.
    if (error instanceof ApiError && error.status !== 0) mine.delete(id);
    throw error;
  }
}

const told = (id, what) => attempt(() => post(`v1/jobs/${encodeURIComponent(id)}/${what}`)).then((job) => job && merge(job));

/** End a job early and keep the pictures it has. */
export const interrupt = (id) => told(id, "interrupt");

/** End the images a job works on; it goes on with its next. */
export const skip = (id) => told(id, "skip");

/** Cancel an unfinished job, or forget one that ended. */
export async function drop(id) {
  await attempt(() => remove(`v1/jobs/${encodeURIComponent(id)}`));
  jobs.value = jobs.peek().filter((job) => job.id !== id);
}

/** A job's infotexts, fetched once. */
export async function infotextsOf(job) {
  if (job.infotexts) return job.infotexts;
  const full = await get(`v1/jobs/${encodeURIComponent(job.id)}?images=false`);
  const info = full.result?.info;
  const infotexts = (info ? JSON.parse(info).infotexts : null) ?? [];
  merge({ id: job.id, infotexts });
  return infotexts;
}
