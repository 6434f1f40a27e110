// The upload as a command, for a script or a machine without a browser.

import { snippet } from "../snippets.js";

const URL = `${document.querySelector("meta[name=external-url]").content}/api/v1/adapters/`;
const TYPED = "samples.jsonl";

const shell = (text) => (/^[A-Za-z0-9._\/=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// typed: the lines of samples.jsonl where they were typed on the page, else "".
export function curl(fields, parts, typed) {
  const lines = [`curl -sS ${URL}`, `-H "Authorization: Bearer $LORADEX_TOKEN"`];
  // --form-string: an @ or < at the beginning of a text stays text.
  for (const [name, value] of fields) lines.push(`--form-string ${shell(`${name}=${value}`)}`);
  for (const part of parts) lines.push(part === TYPED && typed ? `-F '${part}=@-;filename=${part}'` : `-F ${part}=@${part}`);
  const command = lines.join(" \\\n  ");
  return typed ? `${command} <<'JSONL'\n${typed}JSONL` : command;
}

export function python(fields, parts, typed) {
  const text = (value) => JSON.stringify(value);
  const files = parts.map((part) => (part === TYPED && typed ? `    ${text(part)}: (${text(part)}, ${text(typed)}.encode()),` : `    ${text(part)}: open(${text(part)}, "rb"),`));
  return [
    "import os\n\nimport requests\n",
    `files = {\n${files.join("\n")}\n}`,
    `data = [\n${fields.map(([name, value]) => `    (${text(name)}, ${text(value)}),`).join("\n")}\n]`,
    `answer = requests.post(\n    ${text(URL)},\n    data=data,\n    files=files,\n    headers={"Authorization": "Bearer " + os.environ["LORADEX_TOKEN"]},\n    timeout=600,\n)`,
    "answer.raise_for_status()\nprint(answer.json()[\"job\"])",
  ].join("\n");
}

export function showSnippets(box, fields, parts, typed) {
  box.replaceChildren(snippet("curl, in the folder of the files", curl(fields, parts, typed)), snippet("Python", python(fields, parts, typed)));
}
