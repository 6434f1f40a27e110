// Examples of a task as lines: {"input": …, "output": …}, or just the input.

export const lines = (text) => text.split("\n").filter((line) => line.trim());

// A line that is JSON with an input is an example with its output; any other line is an input itself.
function example(line) {
  try {
    const value = JSON.parse(line);
    if (value !== null && typeof value === "object" && "input" in value) return value;
  } catch {
    // Prose, or a prompt that begins with a brace.
  }
  return { input: line.trim() };
}

export const readExamples = (text) => lines(text).map(example);

const isPlain = ({ input, output }) => typeof input === "string" && (output === null || output === undefined) && !input.includes("\n") && !input.trimStart().startsWith("{");

export const writeExamples = (examples) => examples.map((item) => (isPlain(item) ? item.input : JSON.stringify(item))).join("\n");
