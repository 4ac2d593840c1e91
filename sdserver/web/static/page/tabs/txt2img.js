/** Words to pictures. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { submit } from "../jobs.js";
import { Prompts } from "../prompt.js";
import { Results } from "../results.js";
import { Batch, bodyOf, Hires, More, Refiner, Sampling, Script, Seed, SHARED_DEFAULTS, Size } from "../sampling.js";
import { attempt, createForm, parcel } from "../store.js";

const form = createForm("txt2img", {
  ...SHARED_DEFAULTS,
  enable_hr: false, hr_upscaler: "Latent", hr_second_pass_steps: 0, denoising_strength: 0.7, hr_scale: 2,
  hr_resize_x: 0, hr_resize_y: 0, hr_checkpoint_name: "", hr_sampler_name: "", hr_prompt: "", hr_negative_prompt: "",
});

/** The form's fields as POST /sdapi/v1/txt2img takes them. */
function body() {
  const { enable_hr: isTwoPass, ...fields } = bodyOf(form.value.value);
  if (isTwoPass) return { ...fields, enable_hr: true };
  return Object.fromEntries(Object.entries(fields).filter(([name]) => !name.startsWith("hr_") && name !== "denoising_strength"));
}

export function Tab() {
  const [isSending, setSending] = useState(false);
  const [lastSeed, setLastSeed] = useState(undefined);
  useEffect(() => {
    if (parcel.value?.tab !== "txt2img") return;
    const known = Object.entries(parcel.value.fields).filter(([name]) => name in form.defaults);
    form.set(Object.fromEntries(known));
    parcel.value = null;
  }, [parcel.value]);
  const generate = async () => {
    setSending(true);
    await attempt(() => submit("txt2img", "txt2img", body()));
    setSending(false);
  };
  return html`<div class="studio">
    <${Prompts} form=${form} onGenerate=${generate} />
    <button type="button" class="generate" disabled=${isSending} onClick=${generate}>Generate</button>
    <div class="settings">
      <${Sampling} form=${form} />
      <${Size} form=${form} />
      <${Batch} form=${form} />
      <${Seed} form=${form} lastSeed=${lastSeed} />
      <${Hires} form=${form} />
      <${Refiner} form=${form} />
      <${Script} form=${form} />
      <${More} form=${form} />
      <button type="button" class="small" onClick=${form.reset}>Reset to defaults</button>
    </div>
    <${Results} tab="txt2img" onSeed=${setLastSeed} />
  </div>`;
}
