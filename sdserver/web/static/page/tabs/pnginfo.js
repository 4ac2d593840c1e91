/** What a picture's file says of how it was made. */
import { html, useState } from "../../vendor/preact.js";
import { post } from "../api.js";
import { DropZone, read } from "../files.js";
import { readInfotext } from "../infotext.js";
import { attempt, sendTo, tab } from "../store.js";

export function Tab() {
  const [picture, setPicture] = useState(null);
  const [found, setFound] = useState(null);
  const look = async (files) => {
    const [image] = (await read(files)) ?? [];
    if (!image) return;
    setPicture(image);
    setFound(null);
    setFound((await attempt(() => post("sdapi/v1/png-info", { image }))) ?? null);
  };
  const clear = () => {
    setPicture(null);
    setFound(null);
  };
  const others = Object.entries(found?.items ?? {}).filter(([name]) => name !== "parameters");
  return html`<div class="pair">
    <${DropZone} label="Picture" value=${picture} onFiles=${look} onClear=${clear} active=${tab.value === "pnginfo"} />
    <div>
      ${found && !found.info && html`<p class="quiet">This file does not say how it was made.</p>`}
      ${found?.info && html`
        <pre class="infotext">${found.info}</pre>
        <div class="bar">
          <button type="button" onClick=${() => sendTo("txt2img", readInfotext(found.info))}>To txt2img</button>
          <button type="button" onClick=${() => sendTo("img2img", readInfotext(found.info), picture)}>To img2img</button>
          <button type="button" onClick=${() => sendTo("img2img", { ...readInfotext(found.info), mode: "inpaint" }, picture)}>To inpaint</button>
          <button type="button" onClick=${() => sendTo("extras", {}, picture)}>To Extras</button>
        </div>`}
      ${others.length > 0 && html`<dl class="facts">${others.map(([name, text]) => html`<div key=${name}><dt>${name}</dt><dd>${String(text)}</dd></div>`)}</dl>`}
    </div>
  </div>`;
}
