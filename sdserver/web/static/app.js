const POLL_MS = 400;

const form = document.getElementById("form");
const generateButton = document.getElementById("generate");
const interruptButton = document.getElementById("interrupt");
const progressBar = document.getElementById("progress");
const errorLine = document.getElementById("error");
const result = document.getElementById("result");

/** The server's sentence from an error body, whichever of its shapes it has. */
function sentence(body, status) {
  if (Array.isArray(body?.detail)) {
    return body.detail.map((item) => `${item.loc?.at(-1) ?? ""}: ${item.msg}`).join("; ");
  }
  return body?.detail || body?.errors || `The server answered with status ${status}.`;
}

async function call(path, options) {
  const response = await fetch(`sdapi/v1/${path}`, options);
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    throw new Error(sentence(body, response.status));
  }
  return body;
}

function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return call(path, { method: "POST", headers, body: JSON.stringify(body ?? {}) });
}

function showError(text) {
  errorLine.textContent = text;
  errorLine.hidden = !text;
}

function asked() {
  const fields = Object.fromEntries(new FormData(form));
  for (const name of ["width", "height", "steps", "cfg_scale", "seed"]) {
    fields[name] = Number(fields[name]);
  }
  return fields;
}

function showPictures(answer) {
  const infotexts = JSON.parse(answer.info).infotexts;
  const parts = answer.images.flatMap((image, index) => {
    const picture = document.createElement("img");
    picture.alt = asked().prompt || "picture";
    picture.src = `data:${image.startsWith("iVBOR") ? "image/png" : "image/*"};base64,${image}`;
    const text = document.createElement("pre");
    text.textContent = infotexts[index] ?? "";
    return [picture, text];
  });
  if (parts.length === 0) {
    parts.push("It was stopped before there was a picture.");
  }
  result.replaceChildren(...parts);
}

async function poll() {
  try {
    progressBar.value = (await call("progress?skip_current_image=true")).progress;
  } catch {
    progressBar.removeAttribute("value");
  }
}

async function generate(event) {
  event.preventDefault();
  showError("");
  generateButton.disabled = true;
  interruptButton.disabled = false;
  const timer = setInterval(poll, POLL_MS);
  try {
    showPictures(await post("txt2img", asked()));
  } catch (error) {
    showError(error.message);
  } finally {
    clearInterval(timer);
    progressBar.value = 0;
    generateButton.disabled = false;
    interruptButton.disabled = true;
  }
}

async function start() {
  form.addEventListener("submit", generate);
  interruptButton.addEventListener("click", () => post("interrupt").catch((error) => showError(error.message)));
  try {
    const [samplers, options] = await Promise.all([call("samplers"), call("options")]);
    const names = samplers.map(({ name }) => new Option(name, name, name === "Euler a", name === "Euler a"));
    form.elements.sampler_name.replaceChildren(...names);
    document.getElementById("model").textContent = options.sd_model_checkpoint ?? "";
  } catch (error) {
    showError(error.message);
  }
}

start();
