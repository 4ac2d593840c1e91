/** Pictures to pictures: the whole, or what a mask leaves free. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { post } from "../api.js";
import { DropZone, read } from "../files.js";
import { submit } from "../jobs.js";
import { MaskPainter } from "../mask.js";
import { CheckField, NumberField, SelectField } from "../parts.js";
import { Prompts } from "../prompt.js";
import { Results } from "../results.js";
import { Batch, bodyOf, More, Refiner, Sampling, Script, Seed, SHARED_DEFAULTS, Size } from "../sampling.js";
import { attempt, createForm, notify, parcel, tab } from "../store.js";

const MODES = { whole: "Whole picture", inpaint: "Inpaint", upload: "Inpaint upload" };
const RESIZE = ["Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)"];
const FILL = ["fill", "original", "latent noise", "latent nothing"];
const MASKING = ["mask_blur", "inpainting_mask_invert", "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding"];

const form = createForm("img2img", {
  ...SHARED_DEFAULTS,
  mode: "whole", picture: null, mask: null, resize_mode: 0, denoising_strength: 0.75, mask_blur: 4,
  inpainting_mask_invert: 0, inpainting_fill: 1, inpaint_full_res: false, inpaint_full_res_padding: 32,
}, ["picture", "mask"]);

/** The form's fields as POST /sdapi/v1/img2img takes them. */
function body() {
  const { mode, picture, mask, ...fields } = bodyOf(form.value.value);
  if (!picture) throw new Error("Choose a picture to start with.");
  if (mode !== "whole" && !mask) throw new Error("Paint or choose a mask: what is white is painted anew.");
  const sent = { ...fields, init_images: [picture] };
  if (mode === "whole") for (const name of MASKING) delete sent[name];
  else sent.mask = mask;
  return sent;
}

const numbered = (texts) => texts.map((label, value) => ({ label, value }));
const chosen = (name) => ({ value: form.value.value[name], onChange: (value) => form.set({ [name]: Number(value) }) });

function Masking() {
  return html`<div class="row">
    <${NumberField} label="Mask blur" min=${0} max=${64} slider=${true} ...${form.bind("mask_blur")} />
    <${SelectField} label="Mask mode" choices=${numbered(["Inpaint masked", "Inpaint not masked"])} ...${chosen("inpainting_mask_invert")} />
    <${SelectField} label="Masked content" choices=${numbered(FILL)} ...${chosen("inpainting_fill")} />
    <${CheckField} label="Only masked" ...${form.bind("inpaint_full_res")} />
    <${NumberField} label="Only masked padding, pixels" min=${0} max=${256} step=${4} slider=${true} ...${form.bind("inpaint_full_res_padding")} />
  </div>`;
}

function Picture() {
  const { mode, picture, mask } = form.value.value;
  const take = async (files) => {
    const [data] = (await read(files)) ?? [];
    if (data) form.set({ picture: data, mask: null });
  };
  const takeMask = async (files) => {
    const [data] = (await read(files)) ?? [];
    if (data) form.set({ mask: data });
  };
  const describe = (model) => attempt(async () => {
    notify("Describing the picture…");
    form.set({ prompt: (await post("sdapi/v1/interrogate", { image: picture, model })).caption });
  });
  return html`<div>
    <div class="bar" role="group" aria-label="What is painted anew">
      ${Object.entries(MODES).map(([name, title]) => html`<button key=${name} type="button" aria-pressed=${mode === name}
        onClick=${() => form.set({ mode: name, mask: null })}>${title}</button>`)}
    </div>
    <${DropZone} label="Picture" value=${picture} onFiles=${take} onClear=${() => form.set({ picture: null, mask: null })}
      active=${tab.value === "img2img"}>
      ${mode === "inpaint" && picture && html`<${MaskPainter} picture=${picture} onMask=${(next) => form.set({ mask: next })} />`}
    <//>
    ${mode === "upload" && html`<${DropZone} label="Mask" value=${mask} onFiles=${takeMask} onClear=${() => form.set({ mask: null })} />`}
    ${picture && html`<div class="bar">
      <button type="button" class="small" onClick=${() => describe("clip")}>Interrogate CLIP</button>
      <button type="button" class="small" onClick=${() => describe("deepdanbooru")}>Interrogate DeepBooru</button>
      <button type="button" class="small" onClick=${() => sized(picture)}>Size of the picture</button>
    </div>`}
  </div>`;
}

/** Take over the picture's size, in steps of 8. */
function sized(picture) {
  const image = new Image();
  image.onload = () => {
    const round = (length) => Math.min(2048, Math.max(64, Math.round(length / 8) * 8));
    form.set({ width: round(image.naturalWidth), height: round(image.naturalHeight) });
  };
  image.src = picture;
}

export function Tab() {
  const [isSending, setSending] = useState(false);
  const [lastSeed, setLastSeed] = useState(undefined);
  useEffect(() => {
    if (parcel.value?.tab !== "img2img") return;
    const { fields, image } = parcel.value;
    const known = Object.fromEntries(Object.entries(fields).filter(([name]) => name in form.defaults && name !== "denoising_strength"));
    form.set({ mode: "whole", ...known, ...(image ? { picture: image, mask: null } : {}) });
    parcel.value = null;
  }, [parcel.value]);
  const generate = async () => {
    setSending(true);
    await attempt(async () => submit("img2img", "img2img", body()));
    setSending(false);
  };
  return html`<div class="studio">
    <${Prompts} form=${form} onGenerate=${generate} />
    <button type="button" class="generate" disabled=${isSending} onClick=${generate}>Generate</button>
    <div class="settings">
      <${Picture} />
      ${form.value.value.mode !== "whole" && html`<${Masking} />`}
      <div class="row">
        <${SelectField} label="Resize mode" choices=${numbered(RESIZE)} ...${chosen("resize_mode")} />
        <${NumberField} label="Denoising strength" min=${0} max=${1} step=${0.01} slider=${true} ...${form.bind("denoising_strength")} />
      </div>
      <${Sampling} form=${form} />
      <${Size} form=${form} />
      <${Batch} form=${form} />
      <${Seed} form=${form} lastSeed=${lastSeed} />
      <${Refiner} form=${form} />
      <${Script} form=${form} isImg2img=${true} />
      <${More} form=${form} />
      <button type="button" class="small" onClick=${form.reset}>Reset to defaults</button>
    </div>
    <${Results} tab="img2img" onSeed=${setLastSeed} />
  </div>`;
}
