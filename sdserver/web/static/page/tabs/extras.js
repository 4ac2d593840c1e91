/** Pictures enlarged, and faces mended. */
import { html, useEffect, useState } from "../../vendor/preact.js";
import { DropZone, read } from "../files.js";
import { submit } from "../jobs.js";
import { CheckField, NumberField, Section, SelectField } from "../parts.js";
import { Results } from "../results.js";
import { attempt, createForm, lists, parcel, tab } from "../store.js";

const form = createForm("extras", {
  pictures: [], resize_mode: 0, upscaling_resize: 2, upscaling_resize_w: 1024, upscaling_resize_h: 1024, upscaling_crop: true,
  upscaler_1: "Lanczos", upscaler_2: "None", extras_upscaler_2_visibility: 0, gfpgan_visibility: 0, codeformer_visibility: 0,
  codeformer_weight: 0, upscale_first: false,
}, ["pictures"]);

function send({ pictures, ...fields }) {
  const [first] = pictures;
  if (pictures.length === 1) return submit("extras", "extra-single-image", { ...fields, image: first.data });
  return submit("extras", "extra-batch-images", { ...fields, imageList: pictures });
}

export function Tab() {
  const [isSending, setSending] = useState(false);
  const fields = form.value.value;
  useEffect(() => {
    if (parcel.value?.tab !== "extras") return;
    form.set({ pictures: [{ name: "picture.png", data: parcel.value.image }] });
    parcel.value = null;
  }, [parcel.value]);
  const take = async (files) => {
    const data = await read(files);
    if (data) form.set({ pictures: data.map((one, index) => ({ name: files[index].name, data: one })) });
  };
  const generate = async () => {
    setSending(true);
    await attempt(() => send(fields));
    setSending(false);
  };
  const upscalers = lists.upscalers.value.map((one) => one.name);
  const count = fields.pictures.length;
  return html`<div class="studio">
    <div class="prompts">
      <${DropZone} label="Pictures" several=${true} value=${fields.pictures[0]?.data ?? null} onFiles=${take}
        onClear=${() => form.set({ pictures: [] })} active=${tab.value === "extras"} />
      ${count > 1 && html`<p class="quiet">${count} pictures</p>`}
    </div>
    <button type="button" class="generate" disabled=${isSending || count === 0} onClick=${generate}>Generate</button>
    <div class="settings">
      <${SelectField} label="Size" choices=${[{ value: 0, label: "Scale by" }, { value: 1, label: "Scale to" }]} value=${fields.resize_mode}
        onChange=${(mode) => form.set({ resize_mode: Number(mode) })} />
      <div class="row">
        ${fields.resize_mode === 0
          ? html`<${NumberField} label="Resize" min=${1} max=${8} step=${0.05} slider=${true} ...${form.bind("upscaling_resize")} />`
          : html`<${NumberField} label="Width" min=${1} max=${8192} ...${form.bind("upscaling_resize_w")} />
            <${NumberField} label="Height" min=${1} max=${8192} ...${form.bind("upscaling_resize_h")} />
            <${CheckField} label="Crop to fit" ...${form.bind("upscaling_crop")} />`}
        <${SelectField} label="Upscaler 1" choices=${upscalers} ...${form.bind("upscaler_1")} />
        <${SelectField} label="Upscaler 2" choices=${upscalers} ...${form.bind("upscaler_2")} />
        <${NumberField} label="Upscaler 2 visibility" min=${0} max=${1} step=${0.01} slider=${true} ...${form.bind("extras_upscaler_2_visibility")} />
      </div>
      <${Section} title="Faces" open=${fields.gfpgan_visibility > 0 || fields.codeformer_visibility > 0}>
        <div class="row">
          <${NumberField} label="GFPGAN visibility" min=${0} max=${1} step=${0.01} slider=${true} ...${form.bind("gfpgan_visibility")} />
          <${NumberField} label="CodeFormer visibility" min=${0} max=${1} step=${0.01} slider=${true} ...${form.bind("codeformer_visibility")} />
          <${NumberField} label="CodeFormer weight (0: most change)" min=${0} max=${1} step=${0.01} slider=${true} ...${form.bind("codeformer_weight")} />
          <${CheckField} label="Enlarge before faces are restored" ...${form.bind("upscale_first")} />
        </div>
      <//>
    </div>
    <${Results} tab="extras" />
  </div>`;
}
