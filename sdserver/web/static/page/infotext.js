/** AUTOMATIC1111's infotext, read into fields of the API. */

const PAIR = /([\w/ ]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/g;
const NUMBERS = {
  Steps: "steps", "CFG scale": "cfg_scale", Seed: "seed", "Variation seed": "subseed",
  "Variation seed strength": "subseed_strength", "Denoising strength": "denoising_strength", "Clip skip": "clip_skip",
  "Hires upscale": "hr_scale", "Hires steps": "hr_second_pass_steps", "Hires resize-1": "hr_resize_x",
  "Hires resize-2": "hr_resize_y", "Refiner switch at": "refiner_switch_at", "Mask blur": "mask_blur",
};
const TEXTS = {
  Sampler: "sampler_name", "Schedule type": "scheduler", "Hires upscaler": "hr_upscaler", "Hires sampler": "hr_sampler_name",
  "Hires prompt": "hr_prompt", "Hires negative prompt": "hr_negative_prompt", Refiner: "refiner_checkpoint", VAE: "vae",
};

const unquoted = (text) => {
  if (!text.startsWith('"')) return text.trim();
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};

/** The last line's pairs, where it is one of parameters. */
function pairsOf(line) {
  const pairs = [...line.matchAll(PAIR)].map(([, name, value]) => [name.trim(), unquoted(value)]);
  return pairs.length >= 3 ? Object.fromEntries(pairs) : {};
}

/**
 * @param {string} infotext
 * @returns {object} fields of txt2img and img2img; what the text does not say is not there
 */
export function readInfotext(infotext) {
  if (!infotext) return {};
  const lines = infotext.trim().split("\n");
  const pairs = pairsOf(lines.at(-1));
  if (Object.keys(pairs).length > 0) lines.pop();
  const at = lines.findIndex((line) => line.startsWith("Negative prompt:"));
  const prompt = (at < 0 ? lines : lines.slice(0, at)).join("\n").trim();
  const negative = at < 0 ? "" : lines.slice(at).join("\n").slice("Negative prompt:".length).trim();
  const fields = { prompt, negative_prompt: negative };
  for (const [name, field] of Object.entries(NUMBERS)) {
    const number = Number(pairs[name]);
    if (pairs[name] !== undefined && Number.isFinite(number)) fields[field] = number;
  }
  for (const [name, field] of Object.entries(TEXTS)) if (pairs[name]) fields[field] = pairs[name];
  const size = /^(\d+)x(\d+)$/.exec(pairs.Size ?? "");
  if (size) Object.assign(fields, { width: Number(size[1]), height: Number(size[2]) });
  const resized = /^(\d+)x(\d+)$/.exec(pairs["Seed resize from"] ?? "");
  if (resized) Object.assign(fields, { seed_resize_from_w: Number(resized[1]), seed_resize_from_h: Number(resized[2]) });
  if (pairs["Hires upscale"] || pairs["Hires upscaler"]) fields.enable_hr = true;
  if (pairs.Tiling === "True") fields.tiling = true;
  if (pairs["Face restoration"]) fields.restore_faces = true;
  return fields;
}
