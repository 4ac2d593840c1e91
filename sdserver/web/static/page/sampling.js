/** What txt2img and img2img are asked with beside the prompts. Each part takes the tab's form. */
import { html, useState } from "../vendor/preact.js";
import { CheckField, NumberField, Section, SelectField, TextField } from "./parts.js";
import { checkpoint, lists } from "./store.js";

const SHAPES = [[1, 1], [4, 3], [3, 4], [3, 2], [2, 3], [16, 9], [9, 16]];
const GRAIN = 8;
const SAME = "Use same checkpoint";

const names = (items, key = "name") => items.map((item) => item[key]);

/** Sampler, schedule, steps, and how close to the prompt. */
export function Sampling({ form }) {
  return html`<div class="row">
    <${SelectField} label="Sampling method" choices=${names(lists.samplers.value)} ...${form.bind("sampler_name")} />
    <${SelectField} label="Schedule type" choices=${lists.schedulers.value.map((one) => ({ value: one.label, label: one.label }))}
      ...${form.bind("scheduler")} />
    <${NumberField} label="Sampling steps" min=${1} max=${150} slider=${true} ...${form.bind("steps")} />
    <${NumberField} label="CFG scale" min=${1} max=${30} step=${0.5} slider=${true} ...${form.bind("cfg_scale")} />
  </div>`;
}

/** The size nearest to an aspect with the area there is. */
export function shaped(width, height, across, down) {
  const unit = Math.sqrt((width * height) / (across * down));
  const round = (length) => Math.max(64, Math.round(length / GRAIN) * GRAIN);
  return { width: round(unit * across), height: round(unit * down) };
}

/** Width and height, swapped or shaped by a button. */
export function Size({ form }) {
  const { width, height } = form.value.value;
  return html`<div class="row">
    <${NumberField} label="Width" min=${64} max=${2048} step=${GRAIN} slider=${true} ...${form.bind("width")} />
    <${NumberField} label="Height" min=${64} max=${2048} step=${GRAIN} slider=${true} ...${form.bind("height")} />
    <div class="bar">
      <button type="button" class="icon" title="Swap width and height" aria-label="Swap width and height"
        onClick=${() => form.set({ width: height, height: width })}>⇅</button>
      <select aria-label="Shape" value="" onChange=${(event) => {
        const shape = SHAPES[Number(event.target.value)];
        event.target.value = "";
        if (shape) form.set(shaped(width, height, ...shape));
      }}>
        <option value="">Shape…</option>
        ${SHAPES.map(([across, down], index) => html`<option key=${index} value=${index}>${across}:${down}</option>`)}
      </select>
    </div>
  </div>`;
}

/** How many pictures. */
export function Batch({ form }) {
  return html`<div class="row">
    <${NumberField} label="Batch count" min=${1} max=${100} slider=${true} ...${form.bind("n_iter")} />
    <${NumberField} label="Batch size" min=${1} max=${16} slider=${true} ...${form.bind("batch_size")} />
  </div>`;
}

/** The seed, with dice and reuse, and the variation seed. `lastSeed` is the shown picture's. */
export function Seed({ form, lastSeed }) {
  const { subseed_strength: strength, seed_resize_from_w: resized } = form.value.value;
  const [isOpen, setOpen] = useState(strength > 0 || resized > 0);
  return html`<div>
    <div class="row">
      <${NumberField} label="Seed" min=${-1} ...${form.bind("seed")} />
      <div class="bar">
        <button type="button" class="small" title="A new seed each time" onClick=${() => form.set({ seed: -1 })}>Random</button>
        <button type="button" class="small" title="The shown picture's seed" disabled=${lastSeed === undefined}
          onClick=${() => form.set({ seed: lastSeed })}>Reuse</button>
        <${CheckField} label="Extra" value=${isOpen} onChange=${(next) => {
          setOpen(next);
          if (!next) form.set({ subseed_strength: 0, seed_resize_from_w: 0, seed_resize_from_h: 0 });
        }} />
      </div>
    </div>
    ${isOpen && html`<div class="row">
      <${NumberField} label="Variation seed" min=${-1} ...${form.bind("subseed")} />
      <${NumberField} label="Variation strength" min=${0} max=${1} step=${0.01} slider=${true} ...${form.bind("subseed_strength")} />
      <${NumberField} label="Resize seed from width" min=${0} max=${2048} step=${GRAIN} ...${form.bind("seed_resize_from_w")} />
      <${NumberField} label="Resize seed from height" min=${0} max=${2048} step=${GRAIN} ...${form.bind("seed_resize_from_h")} />
    </div>`}
  </div>`;
}

/** The second pass. */
export function Hires({ form }) {
  const fields = form.value.value;
  const upscalers = [...names(lists.latentUpscalers.value), ...names(lists.upscalers.value)];
  const size = fields.hr_resize_x || fields.hr_resize_y
    ? `${fields.hr_resize_x || "auto"} × ${fields.hr_resize_y || "auto"}`
    : `${Math.floor(fields.width * fields.hr_scale)} × ${Math.floor(fields.height * fields.hr_scale)}`;
  return html`<${Section} title=${`Hires. fix${fields.enable_hr ? `: to ${size}` : ""}`} open=${fields.enable_hr}>
    <${CheckField} label="Enlarge by a second pass" ...${form.bind("enable_hr")} />
    <div class="row">
      <${SelectField} label="Upscaler" choices=${upscalers} ...${form.bind("hr_upscaler")} />
      <${NumberField} label="Hires steps (0: as the first pass)" min=${0} max=${150} slider=${true} ...${form.bind("hr_second_pass_steps")} />
      <${NumberField} label="Denoising strength" min=${0} max=${1} step=${0.01} slider=${true} ...${form.bind("denoising_strength")} />
      <${NumberField} label="Upscale by" min=${1} max=${4} step=${0.05} slider=${true} ...${form.bind("hr_scale")} />
      <${NumberField} label="Resize width to (0: by the scale)" min=${0} max=${4096} step=${GRAIN} ...${form.bind("hr_resize_x")} />
      <${NumberField} label="Resize height to (0: by the scale)" min=${0} max=${4096} step=${GRAIN} ...${form.bind("hr_resize_y")} />
      <${SelectField} label="Hires checkpoint" choices=${[{ value: "", label: SAME }, ...names(lists.checkpoints.value, "title")]}
        ...${form.bind("hr_checkpoint_name")} />
      <${SelectField} label="Hires sampling method" choices=${[{ value: "", label: "Use same sampler" }, ...names(lists.samplers.value)]}
        ...${form.bind("hr_sampler_name")} />
    </div>
    <${TextField} label="Hires prompt (empty: the prompt)" rows=${2} ...${form.bind("hr_prompt")} />
    <${TextField} label="Hires negative prompt (empty: the negative prompt)" rows=${2} ...${form.bind("hr_negative_prompt")} />
  <//>`;
}

/** A checkpoint that takes over. */
export function Refiner({ form }) {
  const { refiner_checkpoint: chosen } = form.value.value;
  return html`<${Section} title=${`Refiner${chosen ? `: ${chosen}` : ""}`} open=${Boolean(chosen)}>
    <div class="row">
      <${SelectField} label="Checkpoint" choices=${[{ value: "", label: "None" }, ...names(lists.checkpoints.value, "title")]}
        ...${form.bind("refiner_checkpoint")} />
      <${NumberField} label="Switch at" min=${0.01} max=${1} step=${0.01} slider=${true} ...${form.bind("refiner_switch_at")} />
    </div>
  <//>`;
}

/** Switches and what the checkpoint is used with, for this request alone. */
export function More({ form }) {
  return html`<${Section} title="More">
    <div class="row">
      <${CheckField} label="Tiling" ...${form.bind("tiling")} />
      <${CheckField} label="Restore faces" ...${form.bind("restore_faces")} />
      <${CheckField} label="Save to the server's outputs" ...${form.bind("save_images")} />
      <${NumberField} label="Clip skip" min=${1} max=${12} slider=${true} ...${form.bind("clip_skip")} />
      <${SelectField} label="VAE" choices=${["Automatic", "None", ...names(lists.vaes.value, "model_name")]} ...${form.bind("vae")} />
    </div>
    <p class="quiet">Checkpoint: ${checkpoint.value}</p>
  <//>`;
}

/** A script's argument, by what script-info says of it. */
function Argument({ arg, value, onChange }) {
  const shared = { label: arg.label ?? "", value, onChange };
  if (!arg.label) return html`<p class="quiet">${String(arg.value ?? "").replace(/<[^>]*>|[*\`]/g, "")}</p>`;
  if (Array.isArray(arg.value)) {
    return html`<fieldset class="choices"><legend>${arg.label}</legend>
      ${arg.choices.map((choice) => html`<${CheckField} key=${choice} label=${choice} value=${value.includes(choice)}
        onChange=${(on) => onChange(arg.choices.filter((one) => (one === choice ? on : value.includes(one))))} />`)}
    </fieldset>`;
  }
  if (arg.choices) return arg.choices.length ? html`<${SelectField} ...${shared} choices=${arg.choices} />` : null;
  if (typeof arg.value === "boolean") return html`<${CheckField} ...${shared} />`;
  if (typeof arg.value === "number") {
    return html`<${NumberField} ...${shared} min=${arg.minimum} max=${arg.maximum} step=${arg.step ?? 1} slider=${arg.maximum !== null} />`;
  }
  return html`<${TextField} ...${shared} rows=${/prompt/i.test(arg.label) ? 4 : 1} />`;
}

/** The script that runs the request, and its arguments. */
export function Script({ form, isImg2img = false }) {
  const { script_name: name, script_args: given } = form.value.value;
  const known = lists.scripts.value.filter((one) => one.is_img2img === isImg2img && !one.is_alwayson);
  const script = known.find((one) => one.name === name);
  const choose = (next) => {
    const found = known.find((one) => one.name === next);
    form.set({ script_name: next, script_args: found ? found.args.map((arg) => arg.value ?? "") : [] });
  };
  return html`<${Section} title=${`Script${name ? `: ${name}` : ""}`} open=${Boolean(name)}>
    <${SelectField} label="Script" hidden=${true} value=${name} onChange=${choose}
      choices=${[{ value: "", label: "None" }, ...known.map((one) => one.name)]} />
    ${script?.args.map((arg, index) => html`<${Argument} key=${`${name}${index}`} arg=${arg} value=${given[index] ?? arg.value}
      onChange=${(next) => form.set({ script_args: script.args.map((one, at) => (at === index ? next : given[at] ?? one.value ?? "")) })} />`)}
  <//>`;
}

/** Fields that both tabs start with. */
export const SHARED_DEFAULTS = {
  prompt: "", negative_prompt: "", styles: [], sampler_name: "DPM++ 2M", scheduler: "Automatic", steps: 20,
  width: 512, height: 512, n_iter: 1, batch_size: 1, cfg_scale: 7, seed: -1, subseed: -1, subseed_strength: 0,
  seed_resize_from_w: 0, seed_resize_from_h: 0, refiner_checkpoint: "", refiner_switch_at: 0.8, tiling: false,
  restore_faces: false, save_images: true, clip_skip: 1, vae: "Automatic", script_name: "", script_args: [],
};

/** A form's fields as the API takes them. */
export function bodyOf(fields) {
  const { clip_skip: skip, vae, script_name: script, script_args: args, refiner_checkpoint: refiner, ...body } = fields;
  const overrides = { ...body.override_settings };
  if (skip !== 1) overrides.CLIP_stop_at_last_layers = skip;
  if (vae !== "Automatic") overrides.sd_vae = vae;
  body.override_settings = overrides;
  if (script) Object.assign(body, { script_name: script, script_args: args });
  if (refiner) body.refiner_checkpoint = refiner;
  else delete body.refiner_switch_at;
  if (!body.restore_faces) delete body.restore_faces;
  for (const name of ["hr_checkpoint_name", "hr_sampler_name"]) if (!body[name]) delete body[name];
  for (const name of ["seed_resize_from_w", "seed_resize_from_h"]) if (!body[name]) delete body[name];
  return body;
}
