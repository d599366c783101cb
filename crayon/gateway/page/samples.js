// Samples as people paste them, as records: JSON lines, CSV with a header, or a question and an answer a line.

/** Return records; throws an Error that names the line where one is none. */
export function parsed(text) {
  const lines = text.split(/\r?\n/).map((line, index) => ({ line, number: index + 1 })).filter(({ line }) => line.trim());
  if (!lines.length) throw new Error("There are no samples.");
  if (lines[0].line.trimStart().startsWith("{")) return lines.map(fromJson);
  const mark = [",", "\t", ";"].find((one) => /^"?question"?/i.test(lines[0].line.trim()) && lines[0].line.includes(one));
  if (mark) return fromTable(text, mark);
  return lines.map(fromLine);
}

function fromJson({ line, number }) {
  try {
    return JSON.parse(line);
  } catch {
    throw new Error(`Line ${number} is no JSON.`);
  }
}

function fromLine({ line, number }) {
  const place = Math.max(line.lastIndexOf("\t"), line.lastIndexOf("|"));
  const question = line.slice(0, place).trim();
  const answer = line.slice(place + 1).trim();
  if (place < 0 || !question || !answer) throw new Error(`Line ${number} has no answer: put a tab or a vertical bar before it.`);
  return { question, answer };
}

function fromTable(text, mark) {
  const [header, ...rows] = cells(text, mark);
  const names = header.map((name) => name.trim().toLowerCase());
  return rows.map((row, index) => {
    if (row.length !== names.length) throw new Error(`Row ${index + 2} has ${row.length} cells, the header ${names.length}.`);
    const record = Object.fromEntries(names.map((name, i) => [name, row[i].trim()]));
    return record.answer === "" ? { question: record.question } : record;
  });
}

/** Return the rows of a table whose cells may be quoted, as RFC 4180 has it. */
function cells(text, mark) {
  const rows = [];
  let row = [], cell = "", quoted = false;
  for (let i = 0; i < text.length; i++) {
    const letter = text[i];
    if (quoted) {
      if (letter === '"' && text[i + 1] === '"') { cell += '"'; i++; }
      else if (letter === '"') quoted = false;
      else cell += letter;
    } else if (letter === '"' && !cell) quoted = true;
    else if (letter === mark) { row.push(cell); cell = ""; }
    else if (letter === "\n") { row.push(cell.replace(/\r$/, "")); rows.push(row); row = []; cell = ""; }
    else cell += letter;
  }
  if (cell || row.length) { row.push(cell); rows.push(row); }
  return rows.filter((each) => each.some((one) => one.trim()));
}
