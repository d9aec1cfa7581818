// Puts new parts of the page, which the server has rendered, in the place of older ones, and draws the charts. Without it the
// page shows the moment at which it was asked for.
"use strict";

const live = document.getElementById("live");
const charts = document.getElementById("charts");
const silence = 5000; // milliseconds after which what is shown is called old

let heard = Date.now();
let history, period, length, drawn;

const events = new EventSource("events");

events.addEventListener("parts", (e) => {
  for (const [id, html] of Object.entries(JSON.parse(e.data))) {
    const part = document.getElementById(id);
    if (part) part.innerHTML = html; // escaped by the server
  }
  say("live", "Live");
});

events.addEventListener("history", (e) => {
  ({ history, period, samples: length } = JSON.parse(e.data));
  drawn = JSON.parse(e.data).charts.map(frame);
  charts.replaceChildren(...drawn.map((c) => c.figure));
  charts.hidden = false;
  draw();
});

events.addEventListener("sample", (e) => {
  if (!history) return;
  history.push(JSON.parse(e.data));
  if (history.length > length) history.shift();
  draw();
});

events.onerror = () => {
  // A browser gives up when it is refused: by a server that stops or has just begun, to whom may not see this any more, or when
  // too many look.
  if (events.readyState === EventSource.CLOSED) setTimeout(again, silence);
};

// again loads the page anew as soon as somebody answers for it. Before that a browser would put its own page of an error in the
// place of this one, and never look again.
async function again() {
  try {
    if ((await fetch(location.href, { cache: "no-store" })).status < 500) {
      location.reload();
      return;
    }
  } catch {} // nobody is there
  setTimeout(again, silence);
}

function say(state, text) {
  heard = Date.now();
  live.dataset.state = state;
  if (live.textContent !== text) live.textContent = text;
}

setInterval(() => {
  if (Date.now() - heard > silence && live.dataset.state !== "lost") {
    live.dataset.state = "lost";
    live.textContent = "Not answering since " + new Date(heard).toLocaleTimeString();
  }
}, 1000);

function element(name, attributes, ...children) {
  const svg = ["svg", "path", "line"].includes(name);
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

// frame makes the elements of a chart.
function frame(chart) {
  const lines = chart.Lines.map((line, i) => ({
    name: line.Name,
    path: element("path", { class: "line" + i }),
    value: element("span", {}),
  }));
  const top = element("span", {});
  const from = element("span", {});
  const svg = element("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img" },
    ...[0, 50, 100].map((y) => element("line", { class: "grid", x1: 0, x2: 300, y1: y, y2: y })), ...lines.map((l) => l.path));
  const figure = element("figure", { class: "chart", id: "chart-" + chart.ID },
    element("figcaption", {}, chart.Title),
    element("div", { class: "ends" }, top), svg,
    element("div", { class: "ends" }, from, element("span", {}, "now")),
    element("ul", {}, ...lines.map((l, i) => element("li", { class: "key" + i }, element("span", {}, l.name + " "), l.value))));
  return { title: chart.Title, unit: chart.Unit, lines, top, from, svg, figure };
}

function draw() {
  let first = 0; // of the chart's lines in a sample
  const width = Math.max(history.length, 25) - 1; // of the first minutes a line is not stretched to an hour
  for (const chart of drawn) {
    const columns = chart.lines.map((_, i) => history.map((sample) => sample[first + i]));
    first += chart.lines.length;
    const top = nice(Math.max(...columns.flat().map((v) => v ?? 0)), chart.unit);
    const said = [];
    chart.lines.forEach((line, i) => {
      let d = "", pen = "M";
      columns[i].forEach((v, at) => {
        if (v === null || v === undefined) { pen = "M"; return; }
        const x = 300 - ((history.length - 1 - at) * 300) / width;
        d += pen + x.toFixed(1) + " " + (100 - (v * 100) / top).toFixed(1) + "h0"; // of which one alone is a dot
        pen = "L";
      });
      line.path.setAttribute("d", d);
      line.value.textContent = format(columns[i].at(-1), chart.unit);
      said.push(line.name + " " + line.value.textContent);
    });
    chart.top.textContent = format(top, chart.unit);
    const minutes = (width * period) / 60;
    chart.from.textContent = "−" + Math.round(minutes) + " min";
    chart.svg.setAttribute("aria-label", chart.title + ", now: " + said.join(", "));
  }
}

// nice is a round number that is not below v.
function nice(v, unit) {
  if (!(v > 0)) return unit === "s" ? 1e-3 : 1;
  if (unit === "B") return 2 ** Math.ceil(Math.log2(v));
  const power = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 5, 10].find((m) => m * power >= v) * power;
}

function format(v, unit) {
  if (v === null || v === undefined) return "–";
  if (unit === "s") return v < 1e-3 ? digits(v * 1e6) + " µs" : v < 1 ? digits(v * 1e3) + " ms" : digits(v) + " s";
  if (unit === "B") {
    const power = v < 1 ? 0 : Math.min(Math.floor(Math.log2(v) / 10), 4);
    return digits(v / 1024 ** power) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][power];
  }
  return digits(v) + (unit ? " " + unit : "");
}

function digits(v) {
  return v >= 100 ? Math.round(v).toLocaleString("en").replaceAll(",", "\u202f") : String(Number(v.toPrecision(3)));
}
