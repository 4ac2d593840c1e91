/** Figures in words. Pure functions. */

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

/** Bytes as people read them: 2132625894 is "2.13 GB". */
export function bytes(count) {
  if (count === null || count === undefined) return "unknown";
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : Number(value.toPrecision(3))} ${UNITS[unit]}`;
}

/** Seconds as people read them: 3725 is "1 h 2 min". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "unknown";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A number with as many digits as matter. */
export const figure = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))));

/** An option's key in words: "sd_vae_decode_method" is "Sd vae decode method". */
export function titled(key) {
  const words = key.replaceAll("_", " ").trim();
  return words.slice(0, 1).toUpperCase() + words.slice(1);
}
