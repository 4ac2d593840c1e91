/** What the page knows: signals that every part reads. What one types is kept in this browser. */
import { computed, effect, signal } from "../vendor/preact.js";
import { get } from "./api.js";

const PREFIX = "sdserver:";
const WRITE_MS = 400;

/** A value from this browser's storage; `fallback` where there is none or storage is closed to us. */
export function recall(key, fallback) {
  try {
    const text = localStorage.getItem(PREFIX + key);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback;
  }
}

/** Keep a value in this browser; a full or closed storage loses it, and nothing else. */
export function keep(key, value) {
  try {
    localStorage.setItem(PREFIX + key, JSON.stringify(value));
  } catch {
    // Private windows may refuse; the page works without.
  }
}

/** Be told when another window of this browser keeps a value. */
export const onKept = (key, told) =>
  addEventListener("storage", (event) => {
    if (event.key === PREFIX + key) told();
  });

/** A signal whose value outlives the page. */
export function kept(key, initial) {
  const value = signal(recall(key, initial));
  let timer = 0;
  let first = true;
  effect(() => {
    const now = value.value;
    if (first) {
      first = false;
      return;
    }
    clearTimeout(timer);
    timer = setTimeout(() => keep(key, now), WRITE_MS);
  });
  addEventListener("pagehide", () => keep(key, value.peek()));
  return value;
}

/**
 * A form: an object of API fields that outlives the page, with the defaults where nothing was typed.
 * Fields named in `passing` (pictures) are not kept.
 */
export function createForm(key, defaults, passing = []) {
  const stored = recall(`form:${key}`, {});
  const value = signal({ ...defaults, ...stored });
  const persist = () => {
    const plain = Object.entries(value.peek()).filter(([name]) => !passing.includes(name));
    keep(`form:${key}`, Object.fromEntries(plain));
  };
  let timer = 0;
  const set = (changes) => {
    value.value = { ...value.peek(), ...changes };
    clearTimeout(timer);
    timer = setTimeout(persist, WRITE_MS);
  };
  addEventListener("pagehide", persist);
  return {
    value,
    set,
    defaults,
    /** What `<${Field} ...${form.bind("steps")} />` needs. */
    bind: (name) => ({ value: value.value[name], onChange: (next) => set({ [name]: next }) }),
    reset: () => set(defaults),
  };
}

/** Which tab is shown; it stands in the address, so that reload and the back button keep it. */
export const tab = signal(location.hash.slice(1) || "txt2img");
addEventListener("hashchange", () => {
  tab.value = location.hash.slice(1) || "txt2img";
});

/** Show a tab. */
export const show = (name) => {
  location.hash = name;
};

/** "auto", "light" or "dark". */
export const theme = kept("theme", "auto");
effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

/** Messages at the page's edge: `{id, text, kind}` with kind "error" or "info". */
export const notices = signal([]);
let noticeId = 0;

/** Tell the user something; errors stay until they are closed. */
export function notify(text, kind = "info", seconds = 6) {
  const id = ++noticeId;
  if (notices.peek().some((notice) => notice.text === text)) return;
  notices.value = [...notices.peek(), { id, text, kind }];
  if (kind !== "error") setTimeout(() => dismiss(id), seconds * 1000);
}

/** Take a message away. */
export const dismiss = (id) => {
  notices.value = notices.peek().filter((notice) => notice.id !== id);
};

/** Run something of the user's; a failure is shown, and undefined comes back. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") notify(error.message, "error");
    return undefined;
  }
}

/** Lists of the server's, each fetched once it is first read: `lists.samplers.value` is an array. */
const LISTS = {
  samplers: "sdapi/v1/samplers",
  schedulers: "sdapi/v1/schedulers",
  upscalers: "sdapi/v1/upscalers",
  latentUpscalers: "sdapi/v1/latent-upscale-modes",
  checkpoints: "sdapi/v1/sd-models",
  vaes: "sdapi/v1/sd-vae",
  loras: "sdapi/v1/loras",
  hypernetworks: "sdapi/v1/hypernetworks",
  styles: "sdapi/v1/prompt-styles",
  scripts: "sdapi/v1/script-info",
  faceRestorers: "sdapi/v1/face-restorers",
};
const fetched = new Map();

function list(name) {
  if (!fetched.has(name)) {
    fetched.set(name, signal([]));
    refresh(name);
  }
  return fetched.get(name);
}

/** Fetch a list again. */
export async function refresh(name) {
  const answer = await attempt(() => get(LISTS[name]));
  if (answer) fetched.get(name).value = answer;
}

export const lists = Object.fromEntries(
  Object.keys(LISTS).map((name) => [name, { get value() { return list(name).value; } }]),
);

/** A1111's options as the server has them; empty until `loadOptions` is done. */
export const options = signal({});

/** Fetch the options. */
export async function loadOptions() {
  const answer = await attempt(() => get("sdapi/v1/options"));
  if (answer) options.value = answer;
}

/** The name of the checkpoint that is used. */
export const checkpoint = computed(() => options.value.sd_model_checkpoint ?? "");

/** A picture and fields on their way to another tab: `{tab, fields, image}`; the tab takes and clears it. */
export const parcel = signal(null);

/** Hand fields of the API and a picture (a data address) to another tab, and show it. */
export function sendTo(name, fields, image = null) {
  parcel.value = { tab: name, fields, image };
  show(name);
}
