// Labelled examples as people have them: "input => output" lines, JSON lines or a JSON list, CSV and TSV.

const SEPARATORS = ["\t", "=>", "→"];
const HINT = "write the input, =>, and the right answer";

// Fields of delimited text, with quotes as spreadsheets write them. Returns [{number, fields}], a row each.
function delimited(text, delimiter) {
  const rows = [];
  let fields = [];
  let field = "";
  let quoted = false;
  let number = 1;
  let start = 1;
  const endRow = () => {
    fields.push(field);
    if (fields.some((value) => value.trim())) rows.push({ number: start, fields });
    fields = [];
    field = "";
    start = number;
  };
  for (let place = 0; place < text.length; place += 1) {
    const char = text[place];
    if (char === "\n") number += 1;
    if (quoted) {
      if (char !== '"') field += char;
      else if (text[place + 1] === '"') { field += char; place += 1; }
      else quoted = false;
    } else if (char === '"' && field === "") quoted = true;
    else if (char === delimiter) { fields.push(field); field = ""; }
    else if (char === "\n") endRow();
    else field += char;
  }
  endRow();
  return rows;
}

function fromValue(value, number) {
  const where = `Line ${number}`;
  if (value === null || typeof value !== "object" || Array.isArray(value)) return { problem: `${where} is no object with input and output.` };
  const { input, output } = value;
  if (typeof input !== "string" || !input.trim()) return { problem: `${where} has no input: text in quotes.` };
  if (typeof output !== "string" || !output.trim()) return { problem: `${where} has no output: the right answer, as text in quotes.` };
  return { example: { input, output } };
}

function fromPair(input, output, number) {
  if (!input.trim()) return { problem: `Line ${number} has no input: ${HINT}.` };
  if (!output.trim()) return { problem: `Line ${number} has no answer: ${HINT}.` };
  return { example: { input: input.trim(), output: output.trim() } };
}

function fromLine(line, number) {
  if (line.trimStart().startsWith("{")) {
    try {
      return fromValue(JSON.parse(line), number);
    } catch {
      // A prompt that begins with a brace, unless there is no answer in it either.
    }
  }
  const separator = SEPARATORS.find((mark) => line.includes(mark));
  if (!separator) return { problem: `Line ${number} has no answer: ${HINT}.` };
  // An input may have the mark in it; answers are short.
  const place = line.lastIndexOf(separator);
  return fromPair(line.slice(0, place), line.slice(place + separator.length), number);
}

// A table with a header names its columns; one without has two of them.
function fromTable(rows, delimiter) {
  const names = rows[0].fields.map((name) => name.trim().toLowerCase());
  const [input, output] = [names.indexOf("input"), names.indexOf("output")];
  const hasHeader = input >= 0 && output >= 0;
  return rows.slice(hasHeader ? 1 : 0).map(({ number, fields }) => {
    const most = hasHeader ? names.length : 2;
    if (fields.length > most) return { problem: `Line ${number} has ${fields.length} columns instead of ${most}: put quotes around text with a ${delimiter === "," ? "comma" : "tab"}.` };
    return fromPair(fields[hasHeader ? input : 0] ?? "", fields[hasHeader ? output : 1] ?? "", number);
  });
}

function delimiterOf(text, isCsv) {
  const first = text.trimStart().split("\n", 1)[0].toLowerCase();
  const named = [",", "\t"].find((mark) => ["input", "output"].every((name) => first.split(mark).map((part) => part.trim().replaceAll('"', "")).includes(name)));
  return named ?? (isCsv ? "," : null);
}

function parsed(text, isCsv) {
  if (text.trimStart().startsWith("[")) {
    try {
      return JSON.parse(text).map((value, index) => {
        const found = fromValue(value, index + 1);
        return found.problem ? { problem: found.problem.replace("Line", "Example") } : found;
      });
    } catch {
      // Lines that begin with a bracket.
    }
  }
  const delimiter = delimiterOf(text, isCsv);
  if (delimiter) return fromTable(delimited(text, delimiter), delimiter);
  return text.split("\n").flatMap((line, index) => (line.trim() ? [fromLine(line, index + 1)] : []));
}

// Returns {examples, problems}: what was understood; a sentence for each line that was not. `isCsv`: commas separate, header or not.
export function readLabelled(raw, { isCsv = false } = {}) {
  const text = raw.replace(/^\uFEFF/, "").replaceAll("\r\n", "\n");
  if (!text.trim()) return { examples: [], problems: [] };
  const found = parsed(text, isCsv);
  return { examples: found.filter(({ example }) => example).map(({ example }) => example), problems: found.filter(({ problem }) => problem).map(({ problem }) => problem) };
}

const isPlain = ({ input, output }) => !/[\n\t→]|=>/.test(input + output) && !input.trimStart().startsWith("{");

export const writeLabelled = (examples) => examples.map((item) => (isPlain(item) ? `${item.input} => ${item.output}` : JSON.stringify(item))).join("\n");
