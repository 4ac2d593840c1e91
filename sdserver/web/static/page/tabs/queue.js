/** All jobs of the node: what runs, what waits and in which order, what ended. */
import { html, useLayoutEffect, useRef, useState } from "../../vendor/preact.js";
import { post } from "../api.js";
import { drop, interrupt, isOver, jobs, skip } from "../jobs.js";
import { arranged } from "../order.js";
import { attempt, show } from "../store.js";

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

const nameOf = (job) => job.asked?.prompt?.slice(0, 40) || job.kind;

/** Buttons that move a job; `last` is how many wait. */
function Moves({ job, last, onMove }) {
  const place = job.queue_position;
  const button = (name, text, to, isOff) => html`<button type="button" class="small icon" id=${`move-${name}-${job.id}`} disabled=${isOff}
    aria-label=${`${text}: ${nameOf(job)}`} title=${text} onClick=${() => onMove(job, to, name)}>${{ first: "⤒", up: "↑", down: "↓" }[name]}</button>`;
  return html`${button("first", "Make it the next", 1, place <= 1)}
    ${button("up", "Before the one above", place - 1, place <= 1)}
    ${button("down", "After the one below", place + 1, place >= last)}`;
}

function Actions({ job, last, onMove }) {
  if (isOver(job)) return html`<button type="button" class="small" onClick=${() => drop(job.id)}>Forget</button>`;
  const cancel = html`<button type="button" class="small" onClick=${() => drop(job.id)}>Cancel</button>`;
  if (job.state === "queued") return html`${last > 1 && job.queue_position > 0 && html`<${Moves} job=${job} last=${last} onMove=${onMove} />`}${cancel}`;
  return html`<button type="button" class="small" onClick=${() => interrupt(job.id)}>Interrupt</button>
    ${job.images > 1 && html`<button type="button" class="small" onClick=${() => skip(job.id)}>Skip</button>`}${cancel}`;
}

function Row({ job, last, onMove }) {
  const state = job.state === "queued" && job.queue_position > 0 ? `waits as number ${job.queue_position}` : job.state;
  return html`<tr class=${job.state}>
    <td data-title="Came">${clock.format(new Date(job.created))}</td>
    <td data-title="Kind">${job.tab ? html`<button type="button" class="small" onClick=${() => show(job.tab)}>${job.kind}</button>` : job.kind}</td>
    <td data-title="Prompt" class="what">${job.asked?.prompt ?? html`<span class="quiet">another client's</span>`}</td>
    <td data-title="State">${job.error ? html`<span class="bad">${job.error.message}</span>` : state}</td>
    <td data-title="Progress">${job.state === "running" ? html`<progress max="1" value=${job.progress} aria-label=${`Progress of ${nameOf(job)}`}></progress>` : `${job.images_done}/${job.images}`}</td>
    <td><div class="bar"><${Actions} job=${job} last=${last} onMove=${onMove} /></div></td>
  </tr>`;
}

/** Rows that move lose the focus; this gives it back to the button, or to another of its job's. */
function useFocusAfterMove() {
  const wanted = useRef(null);
  useLayoutEffect(() => {
    if (!wanted.current) return;
    const { id, name } = wanted.current;
    const found = [name, "down", "up", "first"].map((one) => document.getElementById(`move-${one}-${id}`)).find((one) => one && !one.disabled);
    found?.focus();
  });
  return {
    keep: (id, name) => { wanted.current = { id, name }; },
    release: () => { wanted.current = null; },
  };
}

export function Tab() {
  const [told, setTold] = useState("");
  const focus = useFocusAfterMove();
  const all = jobs.value;
  const waiting = all.filter((job) => job.state === "queued").sort((one, other) => one.queue_position - other.queue_position);
  const ordered = [...all.filter((job) => job.state === "running"), ...waiting, ...all.filter(isOver)];
  if (ordered.length === 0) return html`<p class="quiet">Nothing was asked for yet.</p>`;
  const move = async (job, to, name) => {
    focus.keep(job.id, name);
    const moved = await attempt(() => post(`v1/jobs/${encodeURIComponent(job.id)}/move`, { to }));
    if (moved) {
      jobs.value = arranged(jobs.peek(), job.id, moved.queue_position);
      setTold(`${nameOf(job)} waits as number ${moved.queue_position} now.`);
    }
  };
  const onFocusOut = (event) => event.relatedTarget && focus.release();
  return html`<div class="scroll" onFocusOut=${onFocusOut} onPointerDown=${focus.release}>
    <p class="unseen" role="status">${told}</p>
    <table class="queue">
      <thead><tr><th>Came</th><th>Kind</th><th>Prompt</th><th>State</th><th>Progress</th><th><span class="unseen">Actions</span></th></tr></thead>
      <tbody>${ordered.map((job) => html`<${Row} key=${job.id} job=${job} last=${waiting.length} onMove=${move} />`)}</tbody>
    </table>
  </div>`;
}
