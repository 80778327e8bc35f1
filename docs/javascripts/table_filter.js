// Long tables get a field for words, which are looked for in whole rows, and a choice for every column of few values.
"use strict";

const LONG = 20; // rows
const FEW = 8; // values

function addFilter(table) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const place = table.closest(".md-typeset__scrollwrap") || table;
  const bar = Object.assign(document.createElement("div"), { className: "table-filter" });
  const field = Object.assign(document.createElement("input"), { type: "search", placeholder: "Filter by words" });
  field.setAttribute("aria-label", "Filter by words");
  const choices = heads.map((head, column) => choiceOf(head, rows.map((row) => textOf(row.cells[column]))));
  const count = document.createElement("output");
  bar.append(field, ...choices.filter(Boolean), count);
  place.before(bar);

  function update() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const chosen = choices.every((one, column) => !one || !one.value || one.value === textOf(row.cells[column]));
      row.hidden = !chosen || !words.every((word) => text.includes(word));
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  }
  bar.addEventListener("input", update);
  bar.addEventListener("change", update);
  update();
}

function textOf(cell) {
  return cell.textContent.trim();
}

// A list of a column's values, or null if there is nothing to choose.
function choiceOf(head, texts) {
  const values = [...new Set(texts)].filter(Boolean);
  if (values.length < 2 || values.length > FEW) return null;
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", head);
  choice.append(new Option(`${head}: any`, ""), ...values.map((value) => new Option(value, value)));
  return choice;
}

document.querySelectorAll("article table").forEach((table) => {
  if (table.tHead && table.tBodies[0].rows.length >= LONG) addFilter(table);
});
