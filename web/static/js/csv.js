// csv.js: tables as text, both ways.

// A cell that a spreadsheet takes as text, whatever it holds: what begins like a formula gets an apostrophe
// (OWASP, "CSV Injection"), quotes are doubled.
export function cell(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (/^[=+\-@\t\r\n]/.test(text)) text = `'${text}`;
  return `"${text.replaceAll('"', '""')}"`;
}

// Rows as CSV with a byte order mark, so that Excel reads UTF-8; semicolons where the language writes decimal commas.
export function toCsv(rows, separator = ";") {
  return `\ufeff${rows.map((row) => row.map(cell).join(separator)).join("\r\n")}\r\n`;
}

// The rows of a CSV text (RFC 4180, any of `separators`), each with the line it begins in.
export function fromCsv(source, separators) {
  const text = source.replace(/\r\n?/g, "\n"); // Excel on a Mac ends lines by a carriage return alone
  const [head] = /[^\n]+/.exec(text) ?? [""];
  const separator = separators.map((mark) => [head.split(mark).length, mark]).sort((a, b) => b[0] - a[0])[0][1];
  const rows = [];
  let row = [];
  let field = "";
  let quoted = false;
  let line = 1;
  let begun = 1;
  const endRow = () => {
    row.push(field);
    field = "";
    if (row.some((one) => one.trim())) rows.push({ line: begun, cells: row });
    row = [];
  };
  for (let i = text.charCodeAt(0) === 0xfeff ? 1 : 0; i < text.length; i += 1) {
    const c = text[i];
    if (c === "\n") line += 1;
    if (quoted) {
      if (c === '"' && text[i + 1] === '"') field += text[(i += 1)];
      else if (c === '"') quoted = false;
      else field += c;
    } else if (c === '"' && !field.trim()) {
      quoted = true;
      field = "";
    } else if (c === separator) {
      row.push(field);
      field = "";
    } else if (c === "\n") {
      endRow();
      begun = line;
    } else field += c;
  }
  endRow();
  return rows;
}

export function download(name, text, type = "text/csv;charset=utf-8") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
