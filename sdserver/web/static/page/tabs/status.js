/** How the node is: what it does, what is wrong and what helps, and the last hour as plots. */
import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { get } from "../api.js";
import { bytes, duration, figure } from "../figures.js";
import { health } from "../health.js";
import { tab, theme } from "../store.js";

const EVERY_MS = 5000;
const KEPT = 720;
const HEIGHT = 140;
const MEGA = 1e6;
const MINUTES = [1, 2, 5, 10, 15, 30].map((count) => count * 60);
const hours = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

/** What each state means for who waits, and what to do. States that are well are not here. */
const TROUBLE = {
  gone: ["The server does not answer.", "Check that it runs and that this computer reaches it. This page goes on by itself when it is back; what was sent before is kept there."],
  restarting: ["The engine starts again.", "What was sent is kept and made when it is back: nothing need be sent again. If this happens often, its memory may not suffice: ask for smaller pictures or fewer at once, and look into the server's log for the reason."],
  failed: ["The engine cannot work.", "The server ends soon. Look into its log, or at the maintenance port, for the reason; a damaged or unsuitable checkpoint has to be replaced, a machine without enough memory needs a smaller one."],
  draining: ["The server is about to end.", "What was accepted is still made; new requests are refused soon. Send them again when it is back."],
  loading: ["A checkpoint is being loaded.", "Pictures are made as soon as it is there."],
  downloading: ["A checkpoint is being downloaded.", "Pictures are made as soon as it is there."],
  starting: ["The server starts.", "Pictures are made as soon as the checkpoint is loaded."],
};

const PLOTS = [
  { title: "Images per minute", lines: [["images_per_minute", "images"]] },
  { title: "Rows in a batch", lines: [["rows", "rows"]], isSparse: true },
  { title: "Queue", lines: [["running", "running"], ["waiting", "waiting"]] },
  { title: "Memory (MB)", lines: [["memory", "used"]], scale: MEGA },
];

/** Take in what came since the last look. */
function joined(before, after) {
  const names = Object.keys(after).filter((name) => Array.isArray(after[name]));
  return { ...after, ...Object.fromEntries(names.map((name) => [name, [...(before?.[name] ?? []), ...after[name]].slice(-KEPT)])) };
}

/** The status, looked at while this tab is seen. */
function useStatus() {
  const [status, setStatus] = useState(null);
  const history = useRef(null);
  useEffect(() => {
    if (tab.value !== "status") return undefined;
    let isCurrent = true;
    const look = async () => {
      if (document.hidden) return;
      const since = history.current?.time.at(-1) ?? 0;
      const answer = await get(`v1/status?since=${since}`).catch(() => null);
      if (!isCurrent) return;
      if (answer) history.current = joined(history.current, answer.history);
      setStatus((before) => (answer ? { ...answer, history: history.current, isThere: true } : before && { ...before, isThere: false }));
    };
    look();
    const timer = setInterval(look, EVERY_MS);
    return () => {
      isCurrent = false;
      clearInterval(timer);
    };
  }, [tab.value]);
  return status;
}

function styled() {
  if (document.querySelector("link[data-uplot]")) return;
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("web/vendor/uplot.css", document.baseURI).href;
  link.dataset.uplot = "";
  document.head.append(link);
}

/** uPlot, once it is loaded. */
function useLibrary() {
  const [library, setLibrary] = useState(null);
  useEffect(() => {
    styled();
    import("../../vendor/uplot.js").then((module) => setLibrary(() => module.default), () => undefined);
  }, []);
  return library;
}

/** Counts the changes of colours: the page's own, and the system's. */
function useColours() {
  const [count, setCount] = useState(0);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const change = () => setCount((before) => before + 1);
    media.addEventListener("change", change);
    return () => media.removeEventListener("change", change);
  }, []);
  return `${theme.value}/${count}`;
}

function optionsFor(place, plot) {
  const colour = (name) => getComputedStyle(place.querySelector(`.swatch.${name}`)).color;
  const [quiet, line] = [colour("quiet"), colour("line")];
  const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  return {
    width: place.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(1, (high ?? 0) * 1.1)] } },
    axes: [{ ...axis, space: 80, size: 28, incrs: MINUTES, values: (_, times) => times.map((time) => hours.format(new Date(time * 1000))) }, { ...axis, size: 52 }],
    series: [{}, ...plot.lines.map(([, label], index) => ({ label, stroke: colour(`line-${index}`), width: 2, spanGaps: false, points: { show: Boolean(plot.isSparse), size: 4 } }))],
  };
}

const dataOf = (plot, history) => [history.time, ...plot.lines.map(([name]) => history[name].map((value) => (value === null ? null : value / (plot.scale ?? 1))))];

/** One plot; what it says last stands beside its title. */
function Plot({ Library, plot, history, colours }) {
  const place = useRef(null);
  const chart = useRef(null);
  useEffect(() => {
    const element = place.current;
    chart.current = new Library(optionsFor(element, plot), dataOf(plot, history), element);
    const watcher = new ResizeObserver(() => element.clientWidth > 0 && chart.current.setSize({ width: element.clientWidth, height: HEIGHT }));
    watcher.observe(element);
    return () => {
      watcher.disconnect();
      chart.current.destroy();
    };
  }, [colours]);
  useEffect(() => chart.current.setData(dataOf(plot, history)), [history]);
  const last = plot.lines.map(([name, label], index) => {
    const value = history[name].at(-1);
    return html`<span key=${name}><span class=${`key line-${index}`} aria-hidden="true"></span>${figure(value === null || value === undefined ? null : value / (plot.scale ?? 1))} ${label}</span>`;
  });
  return html`<section class="plot">
    <h3>${plot.title}</h3><p class="quiet now">${last}</p>
    <div class="chart" ref=${place} aria-hidden="true">
      <span class="swatch quiet"></span><span class="swatch line"></span><span class="swatch line-0"></span><span class="swatch line-1"></span>
    </div>
  </section>`;
}

function Trouble({ status }) {
  const state = health.value.state === "gone" || !status?.isThere ? "gone" : status.state;
  const trouble = TROUBLE[state];
  if (!trouble) return null;
  return html`<section class="trouble" role="status">
    <h2>${trouble[0]}</h2>
    ${state !== "gone" && status.reason && html`<p>${status.reason}</p>`}
    <p>${trouble[1]}</p>
  </section>`;
}

const memoryOf = (memory) => {
  if (!memory) return "unknown";
  return `${bytes(memory.used)}${memory.total ? ` of ${bytes(memory.total)}` : ""} ${memory.kind === "device" ? "on the device" : "by the engine"}`;
};

function Facts({ status }) {
  const { model, queue, engine, devices } = status;
  const silent = engine.silent_s === null ? "not heard yet" : `heard ${duration(engine.silent_s)} ago`;
  const facts = [
    ["State", `${status.state} for ${duration(status.state_age_s)}`],
    ["Checkpoint", model ? `${model.file} (${model.family})` : "none"],
    ["Device", model ? `${model.device}, ${model.dtype}${model.threads ? `, ${model.threads} ${model.threads === 1 ? "thread" : "threads"}` : ""}` : "none yet"],
    ["Memory", memoryOf(status.memory)],
    ["Queue", `${queue.running} running, ${queue.waiting} waiting${queue.eta_s ? `, about ${duration(queue.eta_s)}` : ""}`],
    ["Up for", duration(status.uptime_s)],
    ["Engine", `${engine.restarts === 0 ? "never started again" : `started again ${engine.restarts === 1 ? "once" : `${engine.restarts} times`}`}, ${silent}`],
  ];
  if (devices.length > 1) devices.forEach((one) => facts.push([`Device ${one.device}`, `${one.state}, ${one.running} running, ${one.images} made`]));
  return html`<dl class="facts tiled">${facts.map(([name, text]) => html`<div key=${name} class=${String(text).length > 40 ? "wide" : ""}><dt>${name}</dt><dd>${text}</dd></div>`)}</dl>`;
}

const ago = (seconds) => clock.format(new Date(Date.now() - seconds * 1000));

/** States and errors of the past, the newest first. */
function Past({ status }) {
  const errors = [...status.errors].reverse();
  const states = [...status.states].reverse();
  return html`<div class="pair past">
    <section><h2>What happened</h2><ul>${states.map((one, at) => html`<li key=${at}><time>${ago(one.age_s)}</time> ${one.state}${one.reason && `: ${one.reason}`}</li>`)}</ul></section>
    <section><h2>Errors</h2>${errors.length === 0 ? html`<p class="quiet">None.</p>` : html`<ul>${errors.map((one, at) => html`<li key=${at}><time>${ago(one.age_s)}</time> ${one.error}</li>`)}</ul>`}</section>
  </div>`;
}

export function Tab() {
  const status = useStatus();
  const Library = useLibrary();
  const colours = useColours();
  if (!status) return html`<${Trouble} status=${status ?? { isThere: health.value.state !== "gone", state: "ready" }} /><p class="quiet">Loading…</p>`;
  return html`<div class="status-page">
    <${Trouble} status=${status} />
    <${Facts} status=${status} />
    <h2>The last hour</h2>
    ${status.history.time.length < 2 && html`<p class="quiet">The first points come within seconds.</p>`}
    ${Library && status.history.time.length > 1 && html`<div class="plots">
      ${PLOTS.map((plot) => html`<${Plot} key=${plot.title} Library=${Library} plot=${plot} history=${status.history} colours=${colours} />`)}
    </div>`}
    <${Past} status=${status} />
    <p class="quiet">${Object.entries(status.versions).map(([name, version]) => `${name} ${version}`).join(", ")}</p>
  </div>`;
}
