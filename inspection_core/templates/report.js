"use strict";
// Text from outside goes into text nodes and properties only; this file builds no markup from strings.
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const PAGE = 50;
  const WORST = 6;
  const byId = (id) => document.getElementById(id);
  const style = getComputedStyle(document.documentElement);
  const wide = matchMedia("(min-width: 1021px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // The order of the rows in report.py.
  const FIELDS = ["path", "status", "score", "p", "verdict", "seconds", "error", "truth", "picture", "plain", "warnings",
    "findings", "crops"];
  const FINDING = ["id", "label", "centre", "size", "unit", "peak", "p", "confidence", "neighbour", "calibrated"];
  const named = (names, values) => Object.fromEntries(names.map((name, k) => [name, values[k]]));

  const items = content.items.map((row) => {
    const item = named(FIELDS, row);
    item.findings = item.findings.map((finding) => named(FINDING, finding));
    item.found = item.findings.length;
    item.kind = item.status === "failed" ? "failed" : item.verdict;
    return item;
  });

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name in element && typeof value !== "string") element[name] = value;
      else element.setAttribute(name === "className" ? "class" : name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  const figure = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(4))));
  const fixed = (value, digits = 4) => (value === null ? "–" : value >= 1e-3 && value < 1e4 ? value.toPrecision(digits) : figure(value));
  const size = (value) => (value >= 1000 ? Math.round(value).toLocaleString("en") : figure(value));
  const badge = (item) => (item.kind ? make("span", { className: `badge ${item.kind}` }, content.words[item.kind] ?? item.kind) : "–");
  const position = (centre) => (centre.length ? `(${centre.map((value) => Math.round(value)).join(", ")})` : "–");
  const axes = (centre) => (centre.length === 3 ? "(z, y, x)" : "(y, x)");

  // Long names may break after a separator rather than inside a word.
  const breakable = (name) => name.split(/(?<=[/_\-])/).flatMap((part) => [part, make("wbr")]);

  function pathOf(item) {
    const cut = item.path.lastIndexOf("/") + 1;
    return make("bdi", { className: "path" }, make("span", { className: "folder" }, ...breakable(item.path.slice(0, cut))), ...breakable(item.path.slice(cut)));
  }

  function picture(source, alt, attributes = {}) {
    if (!source) return make("span", { className: "nothing" }, "no picture");
    const image = make("img", { alt, loading: "lazy", decoding: "async", ...attributes });
    image.addEventListener("error", () => image.replaceWith(make("span", { className: "nothing" }, "no picture")), { once: true });
    image.src = source;
    return image;
  }

  // A conformal p-value is (1 + k) / (n + 1) for k of n calibration scores at or above: said as k of n.
  function inWords(p, n, verb) {
    const k = Math.round(p * (n + 1) - 1);
    if (!n || Math.abs(p - (k + 1) / (n + 1)) > 1e-4 * p) return `p = ${fixed(p, 3)}.`;
    if (k <= 0) return `None of the ${n.toLocaleString("en")} good calibration images ${verb} as high (p = ${fixed(p, 3)}, the smallest that this calibration can show).`;
    return `${k.toLocaleString("en")} of ${n.toLocaleString("en")} good calibration images ${verb} at least as high (p = ${fixed(p, 3)}).`;
  }

  function against(item) {
    if (item.score === null) return "";
    const { threshold, review, words } = content;
    if (threshold !== null && item.score > threshold) return `, above the ${words.NG} threshold of ${figure(threshold)}.`;
    if (review !== null && item.score > review) return `, between the ${words.REVIEW} threshold of ${figure(review)} and ${words.NG} at ${figure(threshold)}.`;
    return threshold === null ? "." : `, not above the ${words.NG} threshold of ${figure(threshold)}.`;
  }

  // ---- the table -------------------------------------------------------------------------------------------------
  const RANK = { NG: 0, REVIEW: 1, OK: 2, failed: 3 };
  const FIRST_DIRECTION = { score: -1, found: -1 };
  const state = { key: "score", direction: -1, verdict: "all", truth: "", text: "", page: 0, chosen: null, overlay: true };
  const columns = Object.fromEntries(["p", "truth"].map((key) => [key, document.querySelector(`#table th[data-key="${key}"]`) !== null]));
  let shown = [];

  function compare(a, b) {
    const { key, direction } = state;
    const value = (item) => (key === "verdict" ? RANK[item.kind] ?? 9 : item[key]);
    const [x, y] = [value(a), value(b)];
    const [noX, noY] = [x === null || a.status === "failed" && key !== "path", y === null || b.status === "failed" && key !== "path"];
    if (noX || noY) return noX - noY || collator.compare(a.path, b.path); // nothing to sort by: always last
    const order = typeof x === "string" ? collator.compare(x, y) : x - y;
    return order * direction || (b.score ?? -Infinity) - (a.score ?? -Infinity) || collator.compare(a.path, b.path);
  }
  const collator = new Intl.Collator("en", { numeric: true });

  function refresh(keep = false) {
    const text = state.text.trim().toLowerCase();
    shown = items.filter((item) =>
      (state.verdict === "all" || item.kind === state.verdict)
      && (!state.truth || "=" + item.truth === state.truth)
      && (!text || item.path.toLowerCase().includes(text) || item.error.toLowerCase().includes(text)));
    shown.sort(compare);
    if (!keep) state.page = 0;
    for (const tile of document.querySelectorAll(".tile")) tile.setAttribute("aria-pressed", String(tile.dataset.verdict === state.verdict));
    byId("by-verdict").value = state.verdict;
    for (const th of document.querySelectorAll("#table th[data-key]")) {
      if (th.dataset.key === state.key) th.setAttribute("aria-sort", state.direction > 0 ? "ascending" : "descending");
      else th.removeAttribute("aria-sort");
    }
    turn(state.page);
  }

  function turn(page, focus = null) {
    const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
    state.page = Math.min(Math.max(page, 0), last);
    const start = state.page * PAGE;
    const rows = shown.slice(start, start + PAGE).map(row);
    byId("rows").replaceChildren(...(rows.length ? rows
      : [make("tr", { className: "empty" }, make("td", { colSpan: document.querySelectorAll("#table th").length }, items.length ? "No image fits these filters." : "No images."))]));
    byId("range").textContent = shown.length
      ? `${(start + 1).toLocaleString("en")}–${(start + rows.length).toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "0 of 0";
    byId("first").disabled = byId("previous").disabled = state.page === 0;
    byId("last").disabled = byId("next").disabled = state.page === last;
    mark();
    if (focus !== null && rows.length) choose(rows[focus < 0 ? rows.length - 1 : focus].item, true);
  }

  function row(item) {
    const cells = [
      make("td", {}, item.status === "failed" ? make("span", { className: "nothing" }, "failed") : picture(item.picture || item.plain, "")),
      make("td", {}, pathOf(item), item.warnings.length ? make("span", { className: "flag" }, ` ⚠ ${plural(item.warnings.length, "warning")}`) : null),
      make("td", {}, badge(item)),
    ];
    if (item.status === "failed") cells.push(make("td", { colSpan: columns.p ? 3 : 2, className: "reason" }, item.error || "no reason was recorded"));
    else {
      for (const value of [fixed(item.score), columns.p ? fixed(item.p, 3) : null, String(item.found)]) {
        if (value !== null) cells.push(make("td", { className: "num" }, value));
      }
    }
    if (columns.truth) cells.push(make("td", {}, item.truth ?? "–"));
    const tr = make("tr", { tabIndex: -1, onclick: () => choose(item, true), onfocus: () => choose(item) }, ...cells);
    tr.item = item;
    return tr;
  }

  function mark() {
    const rows = [...byId("rows").children].filter((tr) => tr.item);
    let reachable = rows[0];
    for (const tr of rows) {
      tr.tabIndex = -1;
      tr.removeAttribute("aria-current");
      if (tr.item === state.chosen) {
        tr.setAttribute("aria-current", "true");
        reachable = tr;
      }
    }
    if (reachable) reachable.tabIndex = 0;
    for (const button of byId("worst").children) button.toggleAttribute("aria-current", button.item === state.chosen);
  }

  function choose(item, act = false) {
    if (state.chosen !== item) {
      state.chosen = item;
      mark();
      byId("detail").replaceChildren(...detail(item));
      byId("detail").scrollTop = 0;
    }
    if (!act) return;
    const tr = [...byId("rows").children].find((candidate) => candidate.item === item);
    if (tr) tr.focus({ preventScroll: wide.matches && inView(tr) });
    byId("detail").classList.add("open");
  }
  function inView(element) {
    const box = element.getBoundingClientRect();
    return box.top > 60 && box.bottom < innerHeight;
  }
  function close() {
    byId("detail").classList.remove("open");
  }

  // ---- the chosen image ------------------------------------------------------------------------------------------
  function detail(item) {
    const parts = [make("div", { className: "head" }, make("h3", {}, pathOf(item)), badge(item),
      make("button", { className: "close", type: "button", onclick: close }, "Close"))];
    if (item.status === "failed") {
      parts.push(make("p", {}, "This image was not inspected."), make("p", { className: "reason" }, item.error || "No reason was recorded."));
      return parts;
    }
    parts.push(...stage(item));
    parts.push(make("p", {}, make("strong", {}, `Score ${fixed(item.score)}`), against(item)));
    if (item.p !== null) parts.push(make("p", {}, inWords(item.p, content.scores_n, "score")));
    const facts = [item.truth === null ? null : `Known label: ${item.truth}`, item.seconds === null ? null : `${figure(item.seconds)} s`];
    if (facts.some(Boolean)) parts.push(make("p", { className: "hint" }, facts.filter(Boolean).join(" · ")));
    for (const warning of item.warnings) parts.push(make("p", { className: "warning" }, make("strong", {}, "Warning"), warning));
    parts.push(...findings(item));
    return parts;
  }

  function stage(item) {
    const both = item.picture && item.plain;
    if (!item.picture && !item.plain) return [make("p", { className: "hint" }, "There is no picture of this image in the report.")];
    const view = make(both ? "button" : "div", { className: "stage", type: both ? "button" : null },
      picture(item.picture || item.plain, `${item.path}${item.picture ? " with overlay" : ""}`, { className: "overlay", loading: "eager" }));
    if (both) view.append(picture(item.plain, `${item.path} without overlay`, { className: "plain", loading: "eager" }));
    const label = make("button", { type: "button", onclick: () => toggle(view, label) });
    const under = make("div", { className: "under" }, both ? label : null);
    if (item.picture && content.scale) {
      under.append(make("span", { className: "legend", title: "The same colours mean the same scores in every picture of this report" },
        `pixel score ${figure(content.scale[0])}`, make("i"), figure(content.scale[1])));
    }
    if (both) {
      view.setAttribute("aria-label", "Picture: press to switch the overlay on and off");
      view.addEventListener("click", () => toggle(view, label));
      set(view, label);
    }
    return [view, under];
  }
  function set(view, label) {
    view.setAttribute("aria-pressed", String(state.overlay));
    label.textContent = state.overlay ? "Hide overlay (O)" : "Show overlay (O)";
  }
  function toggle(view, label) {
    state.overlay = !state.overlay;
    set(view, label);
  }

  function findings(item) {
    if (!item.found) return [make("h4", {}, "No findings")];
    const classes = new Set(items.flatMap((other) => other.findings.map((finding) => finding.label))).size > 1;
    const head = ["#", classes ? "class" : null, "size", "peak", item.findings.some((f) => f.p !== null) ? "p-value" : "confidence", `centre ${axes(item.findings[0].centre)}`];
    const rows = item.findings.map((finding) => make("tr", {},
      make("th", { scope: "row" }, String(finding.id)),
      classes ? make("td", {}, finding.label) : null,
      make("td", {}, finding.size === null ? "–" : `${size(finding.size)} ${finding.unit.replace(/3$/, "³").replace(/2$/, "²")}`),
      make("td", {}, fixed(finding.peak)),
      make("td", {}, fixed(finding.p ?? finding.confidence, 3), finding.p === null && !finding.calibrated ? make("span", { className: "hint" }, " uncalibrated") : null),
      make("td", {}, position(finding.centre))));
    const parts = [make("h4", {}, plural(item.found, "finding")),
      make("table", { className: "findings" },
        make("thead", {}, make("tr", {}, ...head.filter((name) => name !== null).map((name) => make("th", { scope: "col" }, name)))),
        make("tbody", {}, ...rows))];
    for (const finding of item.findings) {
      const crop = item.crops.find(([id]) => id === finding.id);
      if (!crop && finding.p === null && !finding.neighbour) continue;
      parts.push(make("h4", {}, `Finding ${finding.id}`));
      if (finding.p !== null) parts.push(make("p", { className: "hint" }, inWords(finding.p, content.peaks_n, "peak")));
      parts.push(nearest(finding, crop));
    }
    return parts;
  }
  function nearest(finding, crop) {
    const origin = finding.neighbour
      ? [make("bdi", { className: "path" }, finding.neighbour[0]), ` at ${position(finding.neighbour[1])}`,
        finding.neighbour[2] === null ? "" : `, distance ${figure(finding.neighbour[2])}`] : [];
    if (!crop) return origin.length ? make("p", { className: "hint" }, "Nearest good patch: ", ...origin) : "";
    const figures = [make("figure", {}, picture(crop[1], `finding ${finding.id}`), make("figcaption", {}, "this region"))];
    if (crop[2]) figures.push(make("figure", {}, picture(crop[2], "nearest good patch"), make("figcaption", {}, "nearest good patch, from ", ...origin)));
    return make("div", { className: "pair" }, ...figures);
  }

  // ---- the histogram ---------------------------------------------------------------------------------------------
  // Plotly travels compressed, a third of its size, and is unpacked once the table stands.
  const PALETTE = ["#d55e00", "#e0a100", "#c05f9a", "#009e73", "#8a6fc9", "#7f8790"];
  const PATTERN = ["/", "x", ".", "\\", "-", "+"];
  let mode = "count";

  async function drawHistogram() {
    if (!content.histogram) return;
    const table = document.querySelector(".figures");
    try {
      const packed = Uint8Array.from(atob(byId("plotly").textContent), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      const library = make("script");
      library.textContent = await new Response(stream).text();
      document.head.append(library);
      const screened = content.histogram.groups.filter((group) => !group.calibration).flatMap((group) => group.counts);
      mode = Math.max(...screened, 1) > 100 ? "log" : "count";
      await plot();
    } catch (error) {
      byId("histogram").hidden = true; // an old browser: the figures themselves are below
      table.open = true;
      return;
    }
    byId("modes").hidden = false;
    byId("modes").addEventListener("click", (event) => {
      if (event.target.dataset.mode) { mode = event.target.dataset.mode; plot(); }
    });
    dark.addEventListener("change", plot);
    addEventListener("beforeprint", plot);
  }

  // Plotly reads a little markup in names: entities keep it text.
  const asText = (name) => name.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  const shorten = (name) => (name.length > 40 ? `${name.slice(0, 39)}…` : name);

  function plot() {
    const { edges, groups } = content.histogram;
    const colour = (name) => style.getPropertyValue(name).trim();
    const middles = edges.slice(1).map((edge, k) => (edge + edges[k]) / 2);
    const spans = edges.slice(1).map((edge, k) => `${figure(edges[k])} to ${figure(edge)}`);
    let next = 0;
    const traces = groups.map((group) => {
      const total = group.counts.reduce((sum, n) => sum + n, 0);
      const heights = group.counts.map((n) => (!n && (mode === "log" || !group.calibration) ? null : mode === "share" ? 100 * n / total : n));
      const common = { name: `${asText(shorten(group.name))} (${total.toLocaleString("en")})`, customdata: spans, text: group.counts.map(String), textposition: "none",
        hovertemplate: "%{text} at score %{customdata}<extra>%{fullData.name}</extra>" };
      if (group.calibration) {
        return { ...common, type: "scatter", mode: "lines", x: middles, y: heights, connectgaps: false, textposition: undefined,
          line: { shape: "hvh", color: colour("--calibration"), width: 1.8, dash: "dot" } };
      }
      const plain = next === 0 && (group.name === "good" || group.name === "screened images");
      const k = plain ? -1 : next % PALETTE.length;
      if (!plain) next += 1;
      const shade = plain ? colour("--good") : PALETTE[k];
      return { ...common, type: "bar", x: middles, y: heights, width: middles.map((_, i) => edges[i + 1] - edges[i]), opacity: mode === "count" ? 1 : 0.7,
        marker: { color: shade, line: { color: shade, width: 1 }, pattern: plain ? undefined : { shape: PATTERN[k], size: 5, solidity: 0.2, fillmode: "overlay", fgcolor: colour("--panel") } } };
    });
    const cut = (value, text, dash, anchor) => ({
      shape: { type: "line", xref: "x", yref: "paper", x0: value, x1: value, y0: 0, y1: 1, line: { color: colour("--text"), width: dash === "solid" ? 2 : 1.3, dash } },
      note: { x: value, xref: "x", y: 1, yref: "paper", yanchor: "bottom", xanchor: anchor, showarrow: false, text: `${asText(text)} > ${figure(value)}`, font: { size: 12 } } });
    const span = edges[edges.length - 1] - edges[0];
    // The words lie above the plot, clear of every bar: on both sides of the lines, or, near an edge, below each other.
    const side = (value) => (value > edges[0] + 0.8 * span ? "right" : "left");
    const narrow = content.review !== null && content.review < edges[0] + 0.25 * span;
    const cuts = [content.threshold !== null ? cut(content.threshold, content.words.NG, "solid", side(content.threshold)) : null,
      content.review !== null && content.review !== content.threshold ? cut(content.review, content.words.REVIEW, "dash", narrow ? "left" : "right") : null].filter(Boolean);
    const stacked = cuts.length === 2 && cuts[0].note.xanchor === cuts[1].note.xanchor;
    if (stacked) {
      cuts[0].note.yshift = 16;
      if (narrow) cuts[1].note.x = content.threshold; // clear of both lines
    }
    const highest = Math.max(...middles.map((_, k) => groups.reduce((sum, group) => sum + (group.calibration ? 0 : group.counts[k]), 0)), ...groups.flatMap((group) => group.counts));
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true };
    const layout = {
      barmode: mode === "count" ? "stack" : "overlay", bargap: 0, margin: { l: 48, r: 12, t: stacked ? 40 : 24, b: 40 }, height: 300, dragmode: "zoom", hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--text"), family: getComputedStyle(document.body).fontFamily, size: 12 },
      xaxis: { ...axis, title: { text: "image score", standoff: 6 }, range: [edges[0], edges[edges.length - 1]] },
      yaxis: { ...axis, title: { text: { count: "images", log: "images", share: "% of the group" }[mode], standoff: 6 }, type: mode === "log" ? "log" : "linear",
        rangemode: "tozero", ...(mode === "log" || mode === "count" && highest < 8 ? { dtick: 1 } : {}) },
      shapes: cuts.map((c) => c.shape), annotations: cuts.map((c) => c.note),
      legend: { orientation: "h", traceorder: "normal", y: -0.2, yanchor: "top", x: 0, font: { size: 11 } }, hoverlabel: { bgcolor: colour("--panel"), font: { color: colour("--text") } },
    };
    for (const button of byId("modes").children) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    return window.Plotly.react(byId("histogram"), traces, layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
  }

  // ---- start -----------------------------------------------------------------------------------------------------
  for (const th of document.querySelectorAll("#table th[data-key]")) {
    th.firstElementChild.addEventListener("click", () => {
      const { key } = th.dataset;
      state.direction = state.key === key ? -state.direction : FIRST_DIRECTION[key] ?? 1;
      state.key = key;
      refresh();
    });
  }
  for (const tile of document.querySelectorAll(".tile")) {
    tile.addEventListener("click", () => {
      state.verdict = tile.dataset.verdict;
      refresh();
      byId("images").scrollIntoView();
    });
  }
  byId("by-verdict").addEventListener("change", (event) => { state.verdict = event.target.value; refresh(); });
  byId("by-truth")?.addEventListener("change", (event) => { state.truth = event.target.value; refresh(); });
  byId("by-text").addEventListener("input", (event) => { state.text = event.target.value; refresh(); });
  byId("first").addEventListener("click", () => turn(0));
  byId("previous").addEventListener("click", () => turn(state.page - 1));
  byId("next").addEventListener("click", () => turn(state.page + 1));
  byId("last").addEventListener("click", () => turn(Infinity));

  function step(by) {
    const rows = [...byId("rows").children].filter((tr) => tr.item);
    const at = rows.findIndex((tr) => tr.item === state.chosen) + by;
    if (at >= 0 && at < rows.length) choose(rows[at].item, true);
    else if (at < 0 && state.page > 0) turn(state.page - 1, -1);
    else if (at >= rows.length && (state.page + 1) * PAGE < shown.length) turn(state.page + 1, 0);
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    const inTable = event.target.closest("#rows");
    if (event.key === "ArrowLeft") turn(state.page - 1, inTable ? 0 : null);
    else if (event.key === "ArrowRight") turn(state.page + 1, inTable ? 0 : null);
    else if (inTable && event.key === "ArrowDown") step(1);
    else if (inTable && event.key === "ArrowUp") step(-1);
    else if (inTable && (event.key === "Enter" || event.key === " ")) choose(state.chosen, true);
    else if (event.key === "Escape") close();
    else if (event.key.toLowerCase() === "o") document.querySelector("button.stage")?.click();
    else return;
    event.preventDefault();
  });
  addEventListener("beforeprint", () => document.querySelectorAll("#model details").forEach((part) => { part.open = true; }));

  refresh();
  const worst = items.filter((item) => item.score !== null).sort((a, b) => b.score - a.score).slice(0, WORST);
  byId("worst").append(...worst.map((item) => {
    const button = make("button", { type: "button", title: item.path, onclick: () => {
      Object.assign(state, { key: "score", direction: -1, verdict: "all", truth: "", text: "" });
      byId("by-text").value = "";
      if (columns.truth) byId("by-truth").value = "";
      refresh();
      byId("images").scrollIntoView();
      choose(item, true);
    } },
      picture(item.picture || item.plain, ""), make("span", { className: "line" }, badge(item), make("strong", {}, fixed(item.score))),
      make("bdi", { className: "name" }, item.path.slice(item.path.lastIndexOf("/") + 1)));
    button.item = item;
    return button;
  }));
  if (!worst.length) byId("worst").append(make("p", { className: "hint" }, "No image has a score."));
  if (shown.length && wide.matches) choose(shown[0]);
  drawHistogram();
})();
