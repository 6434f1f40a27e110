// A form's choices in the address, so that a link, the Back button and a reload show them again.

const MAX_LENGTH = 3000;
const KEPT = "kept";

const slot = (id) => `address:${id}`;
const freshId = () => Math.random().toString(36).slice(2, 10);

function store(id, text) {
  try {
    sessionStorage.setItem(slot(id), text);
    return true;
  } catch {
    // Full, or forbidden by the browser: the page works on, only Back cannot restore this.
    return false;
  }
}

// Returns {params, isLost}: the choices; whether some were kept by another tab.
export function readAddress() {
  const params = new URLSearchParams(location.search);
  const id = params.get(KEPT);
  if (!id) return { params, isLost: false };
  params.delete(KEPT);
  const text = sessionStorage.getItem(slot(id));
  for (const [name, value] of new URLSearchParams(text || "")) params.append(name, value);
  return { params, isLost: text === null };
}

// A query string that people can read: what may stand in one stays as it is.
export const query = (params) => params.toString().replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%40", "@").replaceAll("%2C", ",");

export const fits = (params) => query(params).length <= MAX_LENGTH;

// Puts the choices into the address. Where that would be too long, this tab keeps those named in `movable`. Returns whether it does.
export function writeAddress(params, movable, { isNew = false } = {}) {
  const shown = new URLSearchParams(params);
  const isKept = !fits(params);
  if (isKept) {
    const kept = new URLSearchParams([...params].filter(([name]) => movable.includes(name)));
    const current = new URLSearchParams(location.search).get(KEPT);
    const id = (!isNew && current) || freshId();
    for (const name of movable) shown.delete(name);
    if (store(id, kept.toString())) shown.set(KEPT, id);
  }
  const text = query(shown);
  const url = location.pathname + (text && `?${text}`);
  if (isNew && url !== location.pathname + location.search) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  return isKept;
}
