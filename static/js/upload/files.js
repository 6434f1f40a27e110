// Which of the chosen files make the adapter, and why the others stay where they are.

export const PARTS = {
  "adapter_config.json": "required",
  "adapter_model.safetensors": "required",
  "README.md": "card",
  "samples.jsonl": "sample inputs",
  "gates.safetensors": "gates",
};
export const REQUIRED = Object.keys(PARTS).filter((path) => PARTS[path] === "required");
const CONFIG = "adapter_config.json";
const PICKLE = /\.(bin|pt|pth|ckpt|pkl|pickle)$/i;
const TRAINING = /(^|\/)(optimizer|scheduler|rng_state|trainer_state|training_args).*$/i;
const REASONS = [
  [TRAINING, "training state: not needed to use the expert"],
  [PICKLE, "pickle: never read, because opening it can run a stranger's code"],
  [/(^|\/)(tokenizer.*|vocab.*|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template.*)$/i, "tokenizer: it belongs to the base model"],
  [/(^|\/)\./, "hidden file"],
];

const name = (path) => path.split("/").at(-1);
const folder = (path) => path.slice(0, path.length - name(path).length);
const depth = (path) => path.split("/").length;

function reason(path) {
  if (name(path) === CONFIG) return "a second adapter; upload one at a time";
  if (path.includes("/")) return "in a sub-folder; only the files beside adapter_config.json are sent";
  return REASONS.find(([pattern]) => pattern.test(path))?.[1] ?? "not part of an adapter";
}

// The files of one adapter. `roots`: every folder with an adapter in what was chosen last.
export class Selection {
  constructor() {
    this.clear();
  }

  clear() {
    this.files = new Map();
    this.skipped = [];
    this.entries = [];
    this.roots = [];
    this.root = "";
  }

  // entries: [{path, file}]. Files chosen one by one add up; a folder takes the place of what was there.
  take(entries) {
    const roots = adapterFolders(entries);
    if (roots.some((root) => root !== "") || roots.length > 1) this.clear();
    this.entries = entries;
    this.roots = roots;
    this.choose(roots[0] ?? "");
  }

  // Of several adapters, the one in this folder.
  choose(root) {
    if (this.roots.length > 1) {
      this.files = new Map();
      this.skipped = [];
    }
    this.root = root;
    for (const { path, file } of this.entries) {
      const relative = path.startsWith(root) ? path.slice(root.length) : path;
      this.skipped = this.skipped.filter((item) => item.path !== relative);
      if (relative in PARTS && path.startsWith(root)) this.files.set(relative, file);
      else this.skipped.push({ path: relative, file, why: path.startsWith(root) ? reason(relative) : "beside the adapter that you chose" });
    }
  }

  remove(path) {
    this.files.delete(path);
  }

  get name() {
    const last = this.root.split("/").filter(Boolean).at(-1) ?? "";
    return last.replace(/[^A-Za-z0-9._]+/g, "-").replace(/^[^A-Za-z0-9]+|[-.]+$/g, "");
  }

  // Weights in a pickle, where there are no others: the server says how to convert them.
  get pickle() {
    if (this.files.has("adapter_model.safetensors")) return null;
    return this.skipped.find(({ path }) => PICKLE.test(path) && !TRAINING.test(path) && !path.includes("/")) ?? null;
  }

  get bytes() {
    return [...this.files.values()].reduce((sum, file) => sum + file.size, 0);
  }

  get isEmpty() {
    return this.files.size === 0 && this.skipped.length === 0;
  }
}

// Folders with a config, the shallowest first; without any, the one with another part of an adapter.
function adapterFolders(entries) {
  const of = (test) => [...new Set(entries.map(({ path }) => path).filter((path) => test(name(path))).map(folder))];
  const found = of((file) => file === CONFIG);
  const folders = found.length ? found : of((file) => file in PARTS || PICKLE.test(file)).slice(0, 1);
  return folders.sort((a, b) => depth(a) - depth(b) || a.localeCompare(b));
}

// The files below a dropped file or folder.
export async function readEntry(entry, prefix = "") {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    return [{ path: prefix + entry.name, file }];
  }
  const reader = entry.createReader();
  const batch = () => new Promise((done, failed) => reader.readEntries(done, failed));
  const found = [];
  for (let part = await batch(); part.length; part = await batch()) {
    for (const child of part) found.push(...(await readEntry(child, `${prefix}${entry.name}/`)));
  }
  return found;
}

export function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
