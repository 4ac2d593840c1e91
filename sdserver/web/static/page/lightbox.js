/** Pictures over the whole window, with zoom, by PhotoSwipe, which is loaded when first needed. */
import { jobs, pictureOf } from "./jobs.js";
import { attempt } from "./store.js";

function styled() {
  if (document.querySelector("link[data-photoswipe]")) return;
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("web/vendor/photoswipe.css", document.baseURI).href;
  link.dataset.photoswipe = "";
  document.head.append(link);
}

const measured = (src) =>
  new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve({ src, width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => resolve({ src, width: 512, height: 512 });
    image.src = src;
  });

/** Show pictures, beginning with one of them. */
export async function showPictures(addresses, index) {
  styled();
  const loaded = await attempt(() => import("../vendor/photoswipe.js"));
  if (!loaded) return;
  const dataSource = await Promise.all(addresses.map(measured));
  const showHideAnimationType = matchMedia("(prefers-reduced-motion: reduce)").matches ? "none" : "zoom";
  new loaded.default({ dataSource, index, showHideAnimationType, wheelToZoom: true, bgOpacity: 0.9 }).init();
}

/** Show a job's pictures, beginning with one of them. */
export function openLightbox(job, number) {
  const known = jobs.peek().find((one) => one.id === job.id) ?? job;
  return showPictures(Array.from({ length: known.pictures }, (_, at) => pictureOf(job, at)), number);
}
