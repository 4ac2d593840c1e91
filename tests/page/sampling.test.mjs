/** Sizes by shape, and a form's fields as the API takes them. */
import assert from "node:assert/strict";
import { before, test } from "node:test";

let sampling;

before(async () => {
  // What the module's neighbours ask of a browser when they are loaded.
  Object.assign(globalThis, { location: { hash: "" }, addEventListener() {}, document: { documentElement: { dataset: {} } } });
  sampling = await import("./static/page/sampling.js");
});

test("a shape keeps the area, in steps of 8 and from 64", () => {
  assert.deepEqual(sampling.shaped(512, 512, 1, 1), { width: 512, height: 512 });
  for (const [across, down] of [[4, 3], [3, 4], [16, 9], [9, 16], [2, 3]]) {
    const { width, height } = sampling.shaped(512, 768, across, down);
    assert.equal(width % 8 + height % 8, 0);
    assert.ok(Math.abs(width / height / (across / down) - 1) < 0.03);
    assert.ok(Math.abs((width * height) / (512 * 768) - 1) < 0.03);
  }
  assert.deepEqual(sampling.shaped(64, 64, 16, 9), { width: 88, height: 64 });
});

test("a shape there and back is where it was, about", () => {
  const there = sampling.shaped(640, 640, 3, 2);
  const back = sampling.shaped(there.width, there.height, 1, 1);
  assert.ok(Math.abs(back.width - 640) <= 8 && back.width === back.height);
});

test("what a request is sent with", () => {
  const fields = { ...sampling.SHARED_DEFAULTS, prompt: "x", clip_skip: 2, vae: "fine", script_name: "X", script_args: [1] };
  const body = sampling.bodyOf(fields);
  assert.deepEqual(body.override_settings, { CLIP_stop_at_last_layers: 2, sd_vae: "fine" });
  assert.deepEqual([body.script_name, body.script_args], ["X", [1]]);
  assert.ok(!("clip_skip" in body) && !("vae" in body) && !("refiner_switch_at" in body));
  const plain = sampling.bodyOf(sampling.SHARED_DEFAULTS);
  assert.deepEqual(plain.override_settings, {});
  assert.ok(!("script_name" in plain));
});
