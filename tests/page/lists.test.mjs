/** Figures in words, options as a list, the order of jobs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, duration, figure, titled } from "./static/page/figures.js";
import { bySection, isSame, keyInError, realEdits } from "./static/page/optionlist.js";
import { arranged } from "./static/page/order.js";

test("bytes", () => {
  const told = [[0, "0 bytes"], [999, "999 bytes"], [1000, "1 kB"], [999_499, "999 kB"], [999_600, "1 MB"], [2132625894, "2.13 GB"], [null, "unknown"], [4e15, "4000 TB"]];
  for (const [count, text] of told) assert.equal(bytes(count), text);
});

test("durations and figures", () => {
  const told = [[0, "0 s"], [59.4, "59 s"], [59.6, "1 min 0 s"], [3725, "1 h 2 min"], [90000, "1 d 1 h"], [null, "unknown"], [NaN, "unknown"], [-3, "0 s"]];
  for (const [seconds, text] of told) assert.equal(duration(seconds), text);
  assert.deepEqual([figure(3.14159), figure(0), figure(null), figure(1234)], ["3.14", "0", "–", "1230"]);
  assert.equal(titled("sd_vae_decode_method"), "Sd vae decode method");
});

const OPTIONS = [
  { key: "jpeg_quality", section: "Saving", acts: true, about: "Quality of JPEG.", value: 80 },
  { key: "samples_format", section: "Saving", acts: true, about: "Format.", value: "png" },
  { key: "localization", section: "User interface", acts: false, about: "", value: "None" },
  { key: "skipped", section: "Infotext", acts: true, about: "Names.", value: ["a"] },
];
const keys = (sections) => sections.map(([section, found]) => [section, found.map((one) => one.key)]);

test("options by section, sought in any case by all words", () => {
  assert.deepEqual(keys(bySection(OPTIONS, "", false)), [["Saving", ["jpeg_quality", "samples_format"]], ["Infotext", ["skipped"]]]);
  assert.deepEqual(keys(bySection(OPTIONS, " JPEG  quality ", false)), [["Saving", ["jpeg_quality"]]]);
  assert.deepEqual(keys(bySection(OPTIONS, "saving format", false)), [["Saving", ["samples_format"]]]);
  assert.deepEqual(bySection(OPTIONS, "localization", false), []);
  assert.deepEqual(keys(bySection(OPTIONS, "user", true)), [["User interface", ["localization"]]]);
});

test("edits that change nothing are none", () => {
  assert.deepEqual(realEdits(OPTIONS, { jpeg_quality: 80, samples_format: "jpg", skipped: ["a"] }), { samples_format: "jpg" });
  assert.ok(isSame(undefined, null) && !isSame("1", 1));
});

test("an error's option", () => {
  assert.equal(keyInError("The option 'jpeg_quality' must be from 1 to 100.", ["skipped", "jpeg_quality"]), "jpeg_quality");
  assert.equal(keyInError("The options could not be saved.", ["skipped"]), undefined);
});

test("a job that moves changes places with those between", () => {
  const queue = [["r", "running", 0], ["a", "queued", 1], ["b", "queued", 2], ["c", "queued", 3]].map(([id, state, queue_position]) => ({ id, state, queue_position }));
  const places = (jobs) => Object.fromEntries(jobs.map((job) => [job.id, job.queue_position]));
  assert.deepEqual(places(arranged(queue, "c", 1)), { r: 0, a: 2, b: 3, c: 1 });
  assert.deepEqual(places(arranged(queue, "a", 9)), { r: 0, a: 3, b: 1, c: 2 });
  assert.equal(arranged(queue, "r", 1), queue);
  assert.equal(arranged(queue, "x", 1), queue);
});
