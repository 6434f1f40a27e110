// Sends a form with its progress: bytes, speed over the last seconds, what is left.

import { ApiError, csrfToken } from "../api.js";

const WINDOW_MS = 5000;
const HASHABLE_BYTES = 64 * 1024 ** 2;

// Speed in bytes per second, over the last WINDOW_MS.
class Speed {
  constructor() {
    this.points = [];
  }

  at(bytes, now = performance.now()) {
    this.points.push([now, bytes]);
    while (this.points.length > 2 && now - this.points[0][0] > WINDOW_MS) this.points.shift();
    const [[then, before]] = this.points;
    return now - then < 500 ? 0 : ((bytes - before) / (now - then)) * 1000;
  }
}

// report({loaded, total, perSecond}) while bytes go out. Throws ApiError; an abort is `error.cancelled`.
export function send(path, data, report, signal) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    const speed = new Speed();
    request.open("POST", `/api/v1/${path}`);
    request.setRequestHeader("X-CSRFToken", csrfToken());
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => report({ loaded, total, perSecond: speed.at(loaded) });
    request.onload = () => (request.status < 300 ? done(request.response) : failed(refusal(request)));
    request.onerror = () => failed(new ApiError(0, { message: "The connection ended before the upload was complete. If a file was changed meanwhile, choose it again." }));
    const cancelled = () => failed(Object.assign(new ApiError(0, { message: "Cancelled. Nothing was stored." }), { cancelled: true }));
    if (signal.aborted) return cancelled();
    request.onabort = cancelled;
    signal.addEventListener("abort", () => request.abort());
    request.send(data);
  });
}

function refusal(request) {
  const error = new ApiError(request.status, request.response || {});
  error.retryAfterS = Number(request.getResponseHeader("Retry-After")) || null;
  return error;
}

// Whether the same upload may well succeed later.
export const isPassing = (error) => error.status === 0 || error.status === 429 || error.status >= 500;

// Hex digest, so that a byte that flips on the way is noticed; empty where it would take long or cannot be had.
export async function digestOf(file) {
  if (!crypto.subtle || file.size > HASHABLE_BYTES) return "";
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function inWords(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.ceil((seconds % 3600) / 60)} min`;
}
