// Calls to the REST API from a page (session + CSRF), and how its refusals are shown.

const API = "/api/v1/";

export class ApiError extends Error {
  constructor(status, body, retryAfterS = 0) {
    super(body.message || `The server answered ${status}.`);
    this.status = status;
    this.retryAfterS = retryAfterS;
    this.code = body.code;
    this.detail = body.detail || {};
  }
}

export const csrfToken = () => document.querySelector("meta[name=csrf-token]").content;

// A body that is text is sent as it is, under its type; any other as JSON.
export async function call(method, path, body, type = "application/json") {
  const headers = { Accept: "application/json", "X-CSRFToken": csrfToken() };
  if (body !== undefined) headers["Content-Type"] = type;
  let answer;
  try {
    answer = await fetch(API + path, { method, headers, body: body === undefined || typeof body === "string" ? body : JSON.stringify(body) });
  } catch {
    throw new ApiError(0, { message: "The server cannot be reached. Check your connection and try again." });
  }
  const data = answer.status === 204 ? null : await answer.json().catch(() => ({}));
  if (!answer.ok) throw new ApiError(answer.status, data || {}, Number(answer.headers.get("Retry-After")));
  return data;
}

// el("a", {href: "/x", class: "chip"}, "text", otherNode)
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Paragraphs were put there for one error; a box that lasts is a div.
export function clearErrors(form) {
  for (const field of form.querySelectorAll("[aria-invalid]")) unmarkField(field);
  for (const note of form.querySelectorAll("p.error")) note.remove();
  const box = form.querySelector("[data-errors]");
  if (box) box.replaceChildren();
}

// Puts a message below a field and ties it to it; one at a time. A field names its lasting hint in data-hint.
export function markField(field, message) {
  const id = `${field.id || field.name}-error`;
  const known = document.getElementById(id);
  // The same words again would be read out again.
  if (known?.textContent === message) return;
  known?.remove();
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", [field.dataset.hint, id].filter(Boolean).join(" "));
  (field.closest(".field") || field.parentElement).append(el("p", { class: "error", id }, message));
}

export function unmarkField(field) {
  document.getElementById(`${field.id || field.name}-error`)?.remove();
  field.removeAttribute("aria-invalid");
  if (field.dataset.hint) field.setAttribute("aria-describedby", field.dataset.hint);
  else field.removeAttribute("aria-describedby");
}

const text = (value) => (Array.isArray(value) ? value.map(text).join(" ") : typeof value === "string" ? value : JSON.stringify(value));

// Puts each part of a refusal beside the field it is about; what belongs to no field goes into the form's error box.
export function showError(form, error) {
  const box = form.querySelector("[data-errors]");
  const keys = Object.keys(error.detail || {});
  const fields = keys.map((key) => form.querySelector(`[name="${CSS.escape(key)}"]`));
  if (keys.length > 0 && fields.every(Boolean)) {
    fields.forEach((field, index) => markField(field, keys.length === 1 ? error.message : text(error.detail[keys[index]])));
    fields[0].focus();
    return;
  }
  const problems = error.detail.problems || error.detail.inputs || [];
  const isRepeated = problems.length === 1 && error.message.includes(problems[0].message);
  const notice = el("div", { class: "notice bad", role: "alert" }, isRepeated ? null : el("p", {}, error.message));
  if (problems.length) notice.append(el("ul", {}, ...problemItems(problems)));
  if (error.status === 401 || (error.status === 403 && error.code === "not_authenticated")) {
    notice.append(el("p", {}, el("a", { href: `/login/?next=${encodeURIComponent(location.pathname + location.search)}` }, "Log in"), " and try again."));
  }
  box.replaceChildren(notice);
  box.scrollIntoView({ block: "nearest" });
}

// What is wrong alike in many places is said once.
export function problemItems(problems) {
  const alike = Map.groupBy(problems, ({ adapter = "", code, message }) => `${adapter} ${code} ${message}`);
  return [...alike.values()].map((group) => {
    const { where, adapter, code, message } = group[0];
    const place = where || adapter;
    const more = group.length > 1 ? ` and ${group.length - 1} more` : "";
    return el("li", {}, place ? el("strong", {}, `${place}${more}: `) : null, message, " ", el("code", {}, code));
  });
}
