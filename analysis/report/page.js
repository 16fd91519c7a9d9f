"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const shown = new Map(); // element -> specification that it shows

  function draw(element, spec, name = theme()) {
    shown.set(element, spec);
    return vegaEmbed(element, spec, {
      logLevel: 1, // errors
      ast: true, // expressions are interpreted, never made into code
      renderer: "svg",
      config: { ...data.themes[name], aria: false },
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: element.dataset.figure || "curve",
    }).then(() => element.querySelector("summary")?.setAttribute("aria-label", "Save this figure")).catch((error) => { element.textContent = `This figure cannot be drawn: ${error.message}`; });
  }

  const drawAll = (name) => { for (const [element, spec] of [...shown]) draw(element, spec, name); };
  for (const element of document.querySelectorAll("[data-figure]")) draw(element, data.figures[element.dataset.figure]);

  // Light or dark: as the system has it, until the button is pressed; paper is light.
  const button = document.getElementById("theme");
  const label = () => { button.textContent = theme() === "dark" ? "Light theme" : "Dark theme"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = theme() === "dark" ? "light" : "dark"; label(); drawAll(); });
  dark.addEventListener("change", () => { label(); if (!root.dataset.theme) drawAll(); });
  addEventListener("beforeprint", () => { if (theme() === "dark") drawAll("light"); });
  addEventListener("afterprint", () => { if (theme() === "dark") drawAll(); });
  label();

  // A table sorts by any of its columns; numbers by their first number, empty cells last.
  function key(text) {
    const number = text.replace(/[,*†\[<>]/g, "").replace("−", "-").trim().match(/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i);
    return number ? [0, Number(number[0]), text] : [text === "" ? 2 : 1, 0, text];
  }
  function order(one, other) {
    return one[0] - other[0] || one[1] - other[1] || one[2].localeCompare(other[2]);
  }
  function sort(table, place, head) {
    const falls = head.getAttribute("aria-sort") === "ascending";
    const runs = table.tBodies.length > 1 || table.tBodies[0].dataset.run !== undefined;
    const rows = runs ? [...table.tBodies] : [...table.tBodies[0].rows];
    const cell = (row) => key((runs ? row.rows[0] : row).cells[place].textContent);
    const keyed = rows.map((row) => [cell(row), row]);
    const last = (one) => one[0][0] === 2;
    keyed.sort((a, b) => last(a) - last(b) || order(a[0], b[0]) * (falls ? -1 : 1));
    (runs ? table : table.tBodies[0]).append(...keyed.map((pair) => pair[1]));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  }
  for (const table of document.querySelectorAll("table[data-sorts]")) {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const press = document.createElement("button");
      press.type = "button";
      press.textContent = head.textContent;
      head.replaceChildren(press);
      press.addEventListener("click", () => sort(table, place, head));
    });
  }

  // Filters act on the table of all runs and on the figure above it.
  const form = document.getElementById("filters");
  const bodies = [...document.querySelectorAll("tbody[data-run]")];
  function filter() {
    const asked = [...form.querySelectorAll("[data-filter]")].filter((item) => item.value !== "");
    const text = form.querySelector("[data-search]").value.toLowerCase();
    const kept = new Set();
    for (const body of bodies) {
      const settings = JSON.parse(body.dataset.settings);
      const fits = asked.every((item) => settings[item.dataset.filter] === item.value);
      body.hidden = !(fits && body.dataset.name.toLowerCase().includes(text));
      if (!body.hidden) kept.add(Number(body.dataset.run));
    }
    form.querySelector("output").textContent = `${kept.size} of ${bodies.length} runs`;
    const element = data.live && document.querySelector(`[data-figure="${data.live}"]`);
    if (element) {
      const spec = data.figures[data.live];
      draw(element, { ...spec, data: { values: spec.data.values.filter((row) => kept.has(row.run)) } });
    }
  }
  if (form) {
    form.hidden = false;
    form.querySelector("output").textContent = `${bodies.length} of ${bodies.length} runs`;
    form.addEventListener("input", filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  // A run's own curves are drawn when it is opened.
  function curves(element) {
    const columns = (data.curves || {})[element.dataset.curves];
    if (!columns || element.childElementCount) return;
    for (const { metric, spec } of data.curve_specs) {
      const values = ["train", "val"].flatMap((stage) =>
        (columns[`${stage}/${metric}`] || []).map((value, place) => (
          { epoch: columns.epoch[place], series: stage === "val" ? "validation" : "training", value })));
      if (!values.length) continue;
      const place = element.appendChild(document.createElement("div"));
      place.className = "drawing";
      place.setAttribute("role", "group");
      place.setAttribute("aria-label", `${metric} of this run over epochs`);
      draw(place, { ...spec, data: { values } });
    }
  }
  for (const details of document.querySelectorAll(".runs details")) {
    details.addEventListener("toggle", () => { if (details.open) curves(details.querySelector(".curves")); });
  }
})();
