"use strict";
// Everything is in the page already; this sorts, chooses and shows it. Text is only ever set as text.
const find = (id) => document.getElementById(id);
const matrix = find("matrix");
const tables = [...document.querySelectorAll(".scroll > table")];
document.documentElement.classList.add("js");
find("controls").hidden = false;
find("place-choice").hidden = find("place").options.length === 0;

const keyOf = (row, column) => {
  const cell = row.cells[column];
  const text = "k" in cell.dataset ? cell.dataset.k : cell.textContent.trim();
  const number = Number(text);
  return text === "" ? null : Number.isNaN(number) ? text : number;
};

function sort(table, column, descending) {
  const compare = (a, b) => {
    const [x, y] = [keyOf(a, column), keyOf(b, column)];
    if (x === null || y === null) return (x === null) - (y === null); // what is missing comes last, either way
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
    return descending ? -order : order;
  };
  [...table.tHead.rows[0].cells].forEach((head, i) =>
    head.setAttribute("aria-sort", i !== column ? "none" : descending ? "descending" : "ascending"));
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

function sortAgain(table) {
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.getAttribute("aria-sort") !== "none");
  if (column >= 0) sort(table, column, heads[column].getAttribute("aria-sort") === "descending");
}

function show() {
  const measure = find("measure").selectedIndex;
  const wanted = find("filter").value.trim().toLowerCase();
  const own = find("columns").value === "own";
  for (const cell of document.querySelectorAll(".scroll [data-v]")) {
    const text = cell.dataset.v.split("|")[measure] ?? "";
    (cell.firstElementChild ?? cell).textContent = text; // the link, before a flag
    const isValue = text !== "" && text !== "-";
    cell.dataset.k = isValue ? text : "";
    if (cell.classList.contains("value")) cell.style.setProperty("--length", `${isValue ? 100 * Number(text) : 0}%`);
    cell.classList.toggle("off", text === "");
    const flag = cell.querySelector(".flag");
    if (flag) flag.hidden = cell.dataset.moved.split("|")[measure] === "";
  }
  matrix.classList.toggle("own", own);
  for (const table of tables) {
    for (const row of table.tBodies[0].rows) {
      const values = [...row.querySelectorAll("td.value")].filter((cell) => !(table === matrix && own && cell.classList.contains("other")));
      const published = row.classList.contains("published");
      row.hidden = (published && !find("published").checked)
        || !row.cells[0].dataset.k.toLowerCase().includes(wanted)
        || values.every((cell) => cell.textContent.trim() === "");
    }
    sortAgain(table);
    table.closest(".scroll").hidden = table !== matrix && table.dataset.place !== find("place").value;
  }
  for (const name of document.querySelectorAll(".measure")) name.textContent = find("measure").value;
}

function open(id) {
  const article = find(id);
  if (!article) return;
  const copy = article.cloneNode(true);
  copy.removeAttribute("id"); // which stays that of the original
  find("dialog").querySelector("div").replaceChildren(copy);
  if (!find("dialog").open) find("dialog").showModal();
}

async function copyCommand(button) {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    find("told").textContent = "The command was copied.";
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  } catch { // a browser that gives pages no clipboard: it is selected, ready to be copied by hand
    getSelection().selectAllChildren(code);
    find("told").textContent = "The command is selected.";
    button.textContent = "selected";
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#cell-'], .scroll a[href^='#source-']");
  const copy = event.target.closest("button.copy");
  const head = event.target.closest(".scroll thead button");
  if (link) {
    event.preventDefault();
    open(link.getAttribute("href").slice(1));
  } else if (copy) {
    copyCommand(copy);
  } else if (head) {
    const cell = head.parentElement;
    const isName = cell.cellIndex === 0;
    const before = cell.getAttribute("aria-sort");
    sort(cell.closest("table"), cell.cellIndex, before === "none" ? !isName : before === "ascending");
  } else if (event.target === find("dialog")) {
    find("dialog").close(); // a click beside it
  }
});
find("controls").addEventListener("input", show);
find("controls").addEventListener("submit", (event) => event.preventDefault());
find("place").addEventListener("input", show);
if (!matrix.querySelector("td:not(.other)")) find("columns").value = "all";
show();
if (location.hash.startsWith("#cell-")) open(location.hash.slice(1));
