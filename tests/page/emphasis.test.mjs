/** Ctrl+Up and Ctrl+Down in the prompt. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { emphasise } from "./static/page/emphasis.js";

/** The prompt with its selection between | marks; one mark is a place. */
function pressed(marked, direction) {
  const start = marked.indexOf("|");
  const end = marked.lastIndexOf("|");
  const text = marked.replaceAll("|", "");
  const after = emphasise(text, start, start === end ? start : end - 1, direction);
  return `${after.text.slice(0, after.start)}|${after.text.slice(after.start, after.end)}|${after.text.slice(after.end)}`;
}

const CASES = [
  ["a |cat| sits", 1, "a (|cat|:1.1) sits"],
  ["a |cat| sits", -1, "a (|cat|:0.9) sits"],
  ["a ca|t sits", 1, "a (|cat|:1.1) sits"],
  ["a |big cat | sits", 1, "a (|big cat|:1.1)  sits"],
  ["a (|cat|:1.1) sits", 1, "a (|cat|:1.2) sits"],
  ["a (c|at:1.1) sits", -1, "a |cat| sits"],
  ["a (|cat|:0.9) sits", 1, "a |cat| sits"],
  ["<lora:na|me:1>", 1, "<|lora:name|:1.05>"],
  ["<lora:na|me:0.5>", -1, "<|lora:name|:0.45>"],
  ["one, |two|, three", 1, "one, (|two|:1.1), three"],
  ["x | y", 1, "x || y"],
  ["|", 1, "||"],
  ["(a) |cat|", 1, "(a) (|cat|:1.1)"],
  ["(cat:x) |dog|", 1, "(cat:x) (|dog|:1.1)"],
];

for (const [before, direction, after] of CASES) {
  test(`${before} ${direction > 0 ? "up" : "down"}`, () => assert.equal(pressed(before, direction), after));
}

test("up and down again is what was there", () => {
  for (const text of ["|cat|", "a |big cat| sits", "(|cat|:1.3)", "<|lora:x|:0.7>"]) {
    assert.equal(pressed(pressed(text, 1), -1), text);
  }
});
