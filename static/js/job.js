// The page of a job: htmx fetches the changing part again; what must not be lost with it is kept here.

const badge = document.getElementById("job-status");
const offline = document.getElementById("offline");
const title = document.title;
let followed = null;

const part = () => document.getElementById("job");
const log = () => document.getElementById("log");

function isAtEnd(list) {
  return list.scrollHeight - list.scrollTop - list.clientHeight < 8;
}

// Announced once per change: the badge is a live region outside of the part that is replaced.
function tell() {
  const { status, percent } = part().dataset;
  if (badge.textContent !== status) {
    badge.textContent = status;
    badge.className = `badge ${status}`;
  }
  const isOpen = status === "queued" || status === "running";
  if (!isOpen) document.getElementById("cancel")?.remove();
  document.title = status === "running" ? `${percent} % · ${title}` : `${status} · ${title}`;
}

function say(message) {
  offline.textContent = message;
  offline.hidden = message === "";
}

document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target !== part()) return;
  if (new URL(event.detail.xhr.responseURL).pathname.startsWith("/login/")) {
    // The session has ended: the login page belongs into the window, not into this part.
    event.detail.shouldSwap = false;
    location.reload();
    return;
  }
  const list = log();
  followed = list && { top: list.scrollTop, atEnd: isAtEnd(list) };
});
document.addEventListener("htmx:afterSwap", () => {
  const list = log();
  if (list) list.scrollTop = followed && !followed.atEnd ? followed.top : list.scrollHeight;
  say("");
  tell();
});
document.addEventListener("htmx:sendError", () => say("The server cannot be reached. The job goes on without this page, which keeps trying."));
document.addEventListener("htmx:responseError", ({ detail }) => say(detail.xhr.status === 404 ? "This job is gone, or you are logged out. Load the page again." : `The server answered ${detail.xhr.status}. The job goes on without this page, which keeps trying.`));

if (log()) log().scrollTop = log().scrollHeight;
tell();
