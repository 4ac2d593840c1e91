/** Requests to the server. All addresses are relative to the page, which a proxy may serve below a prefix. */

/** What went wrong, as a sentence for the user. */
export class ApiError extends Error {
  /**
   * @param {string} message what to show
   * @param {number} status HTTP status, 0 where no answer came
   * @param {number|null} retryAfter seconds to wait before trying again
   */
  constructor(message, status, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const UNREACHABLE =
  "The server does not answer. Check that it runs and that this computer reaches it; what was sent before goes on there.";

/** The server's sentence from an error body, whichever of its shapes it has. */
export function sentence(body, status) {
  if (Array.isArray(body?.detail)) {
    return body.detail.map((item) => `${item.loc?.at(-1) ?? ""}: ${item.msg}`).join("; ");
  }
  return (
    body?.detail || body?.errors || body?.error?.message || body?.error || `The server answered with status ${status}.`
  );
}

/** Where the login page is, or where one comes back to after it. */
function logIn() {
  location.assign(new URL("login", document.baseURI));
}

/**
 * One request.
 * @param {string} path relative, such as "sdapi/v1/options"
 * @param {RequestInit} [options]
 * @returns {Promise<Response>} one with a status of success
 * @throws {ApiError}
 */
export async function request(path, options = {}) {
  let response;
  try {
    // The header keeps the browser from asking for a password before the page can.
    const headers = { "X-Requested-With": "fetch", ...options.headers };
    response = await fetch(new URL(path, document.baseURI), { credentials: "same-origin", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(UNREACHABLE, 0);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  if (response.status === 401 && body?.error !== "WrongKey") logIn();
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  throw new ApiError(String(sentence(body, response.status)), response.status, retryAfter);
}

const withBody = (method, body) => ({
  method,
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body ?? {}),
});

/** The JSON of a GET. */
export const get = async (path, options) => (await request(path, options)).json();

/** The JSON of a POST. */
export const post = async (path, body, options) => (await request(path, { ...withBody("POST", body), ...options })).json();

/** The JSON of a DELETE. */
export const remove = async (path) => (await request(path, { method: "DELETE" })).json();

/** A file's content as a data address. */
export function asDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new ApiError("The file cannot be read.", 0));
    reader.readAsDataURL(blob);
  });
}
