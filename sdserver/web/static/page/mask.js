/** A mask painted over a picture: brush, eraser, undo, zoom. White is painted anew, black is kept. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { NumberField } from "./parts.js";
import { attempt } from "./store.js";

const UNDO = 30;
const COLOUR = "rgb(176, 38, 255)";
const WIDEST_CURSOR = 128;
const ZOOMS = [1, 1.5, 2, 3, 4];

/** A ring as wide as the brush; browsers show no larger cursors than this. */
function cursorOf(brush) {
  if (brush > WIDEST_CURSOR - 2) return "crosshair";
  const size = brush + 2;
  const ring = (colour, width) =>
    `<circle cx="${size / 2}" cy="${size / 2}" r="${brush / 2}" fill="none" stroke="${colour}" stroke-width="${width}"/>`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}">${ring("white", 2)}${ring("black", 1)}</svg>`;
  return `url("data:image/svg+xml,${encodeURIComponent(svg)}") ${size / 2} ${size / 2}, crosshair`;
}

/** The painted parts as a black and white picture; null where nothing is painted. */
function maskOf(canvas) {
  const { width, height } = canvas;
  const painted = canvas.getContext("2d").getImageData(0, 0, width, height);
  let isEmpty = true;
  for (let at = 0; at < painted.data.length; at += 4) {
    const isWhite = painted.data[at + 3] >= 128;
    if (isWhite) isEmpty = false;
    painted.data.fill(isWhite ? 255 : 0, at, at + 3);
    painted.data[at + 3] = 255;
  }
  if (isEmpty) return null;
  const out = document.createElement("canvas");
  Object.assign(out, { width, height });
  out.getContext("2d").putImageData(painted, 0, 0);
  return out.toDataURL("image/png");
}

/**
 * @param {string} picture a data address
 * @param {(mask: string|null) => void} onMask told the mask after every stroke
 */
export function MaskPainter({ picture, onMask }) {
  const canvas = useRef(null);
  const pen = useRef(null);
  const past = useRef([]);
  const [size, setSize] = useState(null);
  const [brush, setBrush] = useState(24);
  const [mode, setMode] = useState("draw");
  const [zoom, setZoom] = useState(1);
  const [undos, setUndos] = useState(0);

  useEffect(() => {
    const image = new Image();
    image.onload = () => setSize({ width: image.naturalWidth, height: image.naturalHeight });
    image.src = picture;
    past.current = [];
    setUndos(0);
    onMask(null);
  }, [picture]);

  useEffect(() => {
    if (!size) return undefined;
    let isGone = false;
    canvas.current.getContext("2d", { willReadFrequently: true });
    attempt(() => import("../vendor/atrament.js")).then((loaded) => {
      if (!loaded || isGone) return;
      const made = new loaded.default(canvas.current, { ...size, color: COLOUR, weight: brush });
      Object.assign(made, { smoothing: 0, adaptiveStroke: false });
      const context = canvas.current.getContext("2d");
      made.addEventListener("strokestart", () => {
        past.current = [...past.current.slice(1 - UNDO), context.getImageData(0, 0, size.width, size.height)];
        setUndos(past.current.length);
      });
      made.addEventListener("strokeend", () => onMask(maskOf(canvas.current)));
      pen.current = made;
    });
    return () => {
      isGone = true;
      pen.current?.destroy();
      pen.current = null;
    };
  }, [size]);

  useEffect(() => {
    if (pen.current) Object.assign(pen.current, { weight: brush, mode });
  }, [brush, mode]);

  const restore = (image) => {
    const context = canvas.current.getContext("2d");
    context.clearRect(0, 0, size.width, size.height);
    if (image) context.putImageData(image, 0, 0);
    onMask(maskOf(canvas.current));
  };
  const undo = () => {
    if (past.current.length === 0) return;
    restore(past.current.pop());
    setUndos(past.current.length);
  };
  const onKeyDown = (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "z") {
      event.preventDefault();
      undo();
    }
  };
  return html`<div class="painter" onKeyDown=${onKeyDown}>
    <div class="bar">
      <button type="button" aria-pressed=${mode === "draw"} onClick=${() => setMode("draw")}>Brush</button>
      <button type="button" aria-pressed=${mode === "erase"} onClick=${() => setMode("erase")}>Eraser</button>
      <button type="button" disabled=${undos === 0} onClick=${undo}>Undo</button>
      <button type="button" onClick=${() => restore(null)}>Clear mask</button>
      <button type="button" class="icon" aria-label="Zoom out" disabled=${zoom === ZOOMS[0]} onClick=${() => setZoom(ZOOMS[ZOOMS.indexOf(zoom) - 1])}>−</button>
      <button type="button" class="icon" aria-label="Zoom in" disabled=${zoom === ZOOMS.at(-1)} onClick=${() => setZoom(ZOOMS[ZOOMS.indexOf(zoom) + 1])}>+</button>
    </div>
    <${NumberField} label="Brush size (on the screen)" min=${1} max=${200} slider=${true} value=${brush} onChange=${setBrush} />
    <div class="easel" tabindex="0" aria-label="Picture to paint the mask on">
      <div class="layers" style=${{ width: `${zoom * 100}%` }}>
        <img alt="Picture" src=${picture} draggable=${false} />
        <canvas ref=${canvas} aria-label="Mask" style=${{ cursor: cursorOf(brush) }}></canvas>
      </div>
    </div>
  </div>`;
}
