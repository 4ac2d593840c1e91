/** AUTOMATIC1111's infotext, read into fields. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { readInfotext } from "./static/page/infotext.js";

const LAST = "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 42, Size: 512x768, Model: x, Version: v1.10.1";

test("the usual fields", () => {
  assert.deepEqual(readInfotext(`a cat,\non a mat\nNegative prompt: blurry\nlow\n${LAST}`), {
    prompt: "a cat,\non a mat", negative_prompt: "blurry\nlow", steps: 20, cfg_scale: 7.5, seed: 42,
    sampler_name: "DPM++ 2M", scheduler: "Karras", width: 512, height: 768,
  });
});

test("nothing, and text without parameters", () => {
  assert.deepEqual(readInfotext(""), {});
  assert.deepEqual(readInfotext(null), {});
  assert.deepEqual(readInfotext("only: a prompt"), { prompt: "only: a prompt", negative_prompt: "" });
});

test("quoted values keep their commas, and what is damaged is left out", () => {
  const read = readInfotext(`x\nSteps: 5, Hires prompt: "a, \\"b\\"", Seed: x, Size: big, Hires upscale: 2`);
  assert.equal(read.hr_prompt, 'a, "b"');
  assert.equal(read.enable_hr, true);
  assert.equal(read.hr_scale, 2);
  assert.ok(!("seed" in read) && !("width" in read));
});

test("switches and the resized seed", () => {
  const read = readInfotext(`x\n${LAST}, Tiling: True, Seed resize from: 64x128, Face restoration: GFPGAN`);
  assert.deepEqual([read.tiling, read.restore_faces, read.seed_resize_from_w, read.seed_resize_from_h], [true, true, 64, 128]);
});

test("markup stays text", () => {
  assert.equal(readInfotext(`<img src=x onerror=alert(1)>\n${LAST}`).prompt, "<img src=x onerror=alert(1)>");
});

test("a long hostile line is read in linear time", () => {
  const began = performance.now();
  for (const part of ['a: "', "a ", " ", ": ", "a:,"]) readInfotext(`x\n${part.repeat(100_000)}!`);
  assert.ok(performance.now() - began < 5000);
});
