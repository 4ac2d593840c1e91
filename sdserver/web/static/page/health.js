/** The point in the head that says whether the server can make pictures. */
import { computed, effect, html, signal } from "../vendor/preact.js";
import { get } from "./api.js";
import { isOver, jobs } from "./jobs.js";
import { notify } from "./store.js";

const IDLE_MS = 5000;
const BUSY_MS = 1500;

/** What the server's states mean for who waits for a picture. */
const STATES = {
  ready: () => "ready",
  loading: () => "The server loads its model.",
  restarting: () => "The engine starts again; what was sent is kept and goes on by itself.",
  draining: () => "The server is about to stop: it finishes what it has and takes nothing new.",
  failed: (reason) => `The server cannot make pictures: ${reason || "its log says why."}`,
};
const AGAIN = "The engine had to start again. What was sent is kept and goes on by itself.";
const GONE = "The server does not answer; the page goes on when it is back.";

/** `{state, text}`: one of `STATES`, or "gone" where no answer comes. */
export const health = signal({ state: "ready", text: "ready" });

const isBusy = computed(() => !jobs.value.every(isOver));
let restarts = null;

/** Keep the signal unless something changed, so that nothing is drawn again in vain. */
function set(state, text) {
  if (health.peek().state !== state || health.peek().text !== text) health.value = { state, text };
}

async function look() {
  try {
    // No history: that is for the tab Status.
    const { state, reason, engine } = await get(`v1/status?since=${Math.ceil(Date.now() / 1000) + 3600}`);
    // One that is over before anybody looked is told all the same.
    if (restarts !== null && engine.restarts > restarts && state === "ready" && health.peek().state === "ready") notify(AGAIN);
    restarts = engine.restarts;
    set(state, (STATES[state] ?? STATES.failed)(reason));
  } catch (error) {
    if (error.status === 0) set("gone", GONE);
    else set("failed", error.message);
  }
}

/** Look now and then, more often while something is made, and at once when the page is seen again. */
export function watchHealth() {
  let timer = 0;
  const tick = async () => {
    clearTimeout(timer);
    if (!document.hidden) await look();
    clearTimeout(timer);
    timer = setTimeout(tick, isBusy.peek() ? BUSY_MS : IDLE_MS);
  };
  document.addEventListener("visibilitychange", tick);
  addEventListener("online", tick);
  addEventListener("offline", tick);
  effect(() => {
    isBusy.value;
    tick();
  });
}

export function Health() {
  const { state, text } = health.value;
  return html`<a class=${`health ${state}`} href="#status" title="Status of the server">
    <span class="point" aria-hidden="true"></span><span role="status">${text}</span>
  </a>`;
}
