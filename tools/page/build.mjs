// Writes the page's libraries to sdserver/web/static/vendor, minified, each with its licence beside it.
//
//     cd tools/page && npm install && npm run build
//
// The result is committed: neither the server nor its installation needs Node.
import { build } from "esbuild";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const OUT = new URL("../../sdserver/web/static/vendor/", import.meta.url).pathname;

const LIBRARIES = {
  preact: {
    packages: ["preact", "@preact/signals", "@preact/signals-core", "htm"],
    code: `
      export { render, Fragment } from "preact";
      export { useEffect, useLayoutEffect, useMemo, useRef, useState, useCallback, useId } from "preact/hooks";
      export { signal, computed, effect, batch, untracked, useSignal, useComputed } from "@preact/signals";
      import { h } from "preact";
      import htm from "htm";
      export const html = htm.bind(h);
    `,
  },
  atrament: { packages: ["atrament"], code: `export { default } from "atrament";` },
  photoswipe: { packages: ["photoswipe"], code: `export { default } from "photoswipe";`, css: "photoswipe/dist/photoswipe.css" },
  uplot: { packages: ["uplot"], code: `export { default } from "uplot";`, css: "uplot/dist/uPlot.min.css" },
};

const licenceOf = (name) => {
  for (const file of ["LICENSE", "LICENSE.md", "LICENSE.txt"]) {
    try {
      return readFileSync(`node_modules/${name}/${file}`, "utf8");
    } catch {
      continue;
    }
  }
  throw new Error(`${name} has no licence file`);
};

mkdirSync(OUT, { recursive: true });
for (const [name, { packages, code, css }] of Object.entries(LIBRARIES)) {
  const versions = packages.map((one) => `${one} ${JSON.parse(readFileSync(`node_modules/${one}/package.json`)).version}`);
  await build({
    stdin: { contents: code, resolveDir: "." },
    outfile: `${OUT}${name}.js`,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "none",
    banner: { js: `/* ${versions.join(", ")}; licences in ${name}.LICENSE.txt */` },
  });
  writeFileSync(
    `${OUT}${name}.LICENSE.txt`,
    packages.map((one, index) => `${versions[index]}\n\n${licenceOf(one)}`).join("\n\n----\n\n"),
  );
  if (css) copyFileSync(`node_modules/${css}`, `${OUT}${name}.css`);
}
