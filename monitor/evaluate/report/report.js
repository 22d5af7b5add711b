"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const W = 500, H = 384, LEFT = 46, RIGHT = 12, TOP = 26, BOTTOM = 40;
  const FIRST = 0.02; // of all units: the error rate of fewer is noise
  const hidden = { scores: new Set(), sets: new Set() };
  const colour = (index) => `var(--c${index % 10})`;
  const byId = (id) => document.getElementById(id);

  function svg(tag, attributes, parent) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (parent) parent.append(node);
    return node;
  }

  function percent(value) {
    return `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 2 : 1)} %`;
  }

  function short(value) {
    return value === null ? "none" : Number(value.toPrecision(4)).toString();
  }

  // An empty plot: axes with ticks, and the functions from values to pixels.
  function axes(canvas, x, y) {
    canvas.replaceChildren();
    const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${y.label} over ${x.label}` }, canvas);
    const px = (v) => LEFT + ((v - x.low) / (x.high - x.low)) * (W - LEFT - RIGHT);
    const py = (v) => H - BOTTOM - ((v - y.low) / (y.high - y.low)) * (H - TOP - BOTTOM);
    for (const tick of ticks(x)) {
      svg("line", { class: "rule", x1: px(tick), x2: px(tick), y1: TOP, y2: H - BOTTOM }, root);
      svg("text", { x: px(tick), y: H - BOTTOM + 16, "text-anchor": "middle" }, root).textContent = x.show(tick);
    }
    for (const tick of ticks(y)) {
      svg("line", { class: "rule", x1: LEFT, x2: W - RIGHT, y1: py(tick), y2: py(tick) }, root);
      svg("text", { x: LEFT - 7, y: py(tick) + 4, "text-anchor": "end" }, root).textContent = y.show(tick);
    }
    svg("text", { x: (LEFT + W - RIGHT) / 2, y: H - 6, "text-anchor": "middle" }, root).textContent = x.label;
    svg("text", { x: LEFT, y: TOP - 11 }, root).textContent = y.label;
    return { root, px, py, x };
  }

  function ticks(axis) {
    const span = axis.high - axis.low, rough = span / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let n = Math.ceil(axis.low / step - 1e-9); n * step <= axis.high + 1e-9 * span; n++) found.push(n * step);
    return found;
  }

  const number = (v) => Number(v.toPrecision(6)).toString();

  // Follows the pointer: a vertical line and one line of words for each entry of read(x).
  function hover(canvas, plot, read) {
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    canvas.append(tip);
    const line = svg("line", { class: "here", y1: TOP, y2: H - BOTTOM, visibility: "hidden" }, plot.root);
    plot.root.addEventListener("pointermove", (event) => {
      const box = plot.root.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * W;
      const share = Math.min(1, Math.max(0, (at - LEFT) / (W - LEFT - RIGHT)));
      const found = read(plot.x.low + share * (plot.x.high - plot.x.low));
      tip.replaceChildren(...found.map((entry) => {
        const row = document.createElement("div");
        row.textContent = entry.words;
        if (entry.colour) row.style.setProperty("--own", entry.colour);
        return row;
      }));
      const pixels = LEFT + share * (W - LEFT - RIGHT);
      line.setAttribute("x1", pixels);
      line.setAttribute("x2", pixels);
      line.setAttribute("visibility", "visible");
      tip.hidden = false;
      const left = (pixels / W) * box.width, room = box.width - tip.offsetWidth - 8;
      tip.style.left = `${left + 14 > room ? Math.max(0, left - tip.offsetWidth - 14) : left + 14}px`;
      tip.style.top = "26px";
    });
    plot.root.addEventListener("pointerleave", () => {
      tip.hidden = true;
      line.setAttribute("visibility", "hidden");
    });
  }

  // The place of the last vertex at or left of x, and y on the line to the next one.
  function along(curve, x) {
    let low = 0, high = curve.x.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (curve.x[middle] <= x) low = middle; else high = middle - 1;
    }
    const next = Math.min(low + 1, curve.x.length - 1), width = curve.x[next] - curve.x[low];
    const part = width > 0 ? Math.min(1, Math.max(0, (x - curve.x[low]) / width)) : 0;
    return { place: low, y: curve.y[low] + part * (curve.y[next] - curve.y[low]) };
  }

  function curves(id, kind, question, labels) {
    const canvas = byId(id);
    const some = data.plots.some((p) => p.kind === kind && p.truth === question.truth && p.against === question.against);
    canvas.closest("figure").hidden = data.graded && !some;
    if (data.graded && !some) return;
    const shown = data.plots.filter((p) => p.kind === kind && p.truth === question.truth && p.against === question.against
      && !hidden.scores.has(p.score));
    if (!shown.length) return nothing(canvas, kind === "roc" ? "No score is switched on." : "Risk needs a truth about mistakes: errors or oms.");
    const policy = data.operating.find((o) => o.truth === question.truth && o.against === question.against);
    const mark = kind === "roc" ? [policy.good_refused, policy.bad_refused] : [policy.coverage, policy.risk];
    const top = kind === "roc" ? 1 : Math.min(1, 1.12 * Math.max(mark[1] ?? 0, ...shown.map((p) => Math.max(...p.y.filter((_, i) => p.x[i] >= FIRST)))));
    const plot = axes(canvas, { low: 0, high: 1, label: labels[0], show: number }, { low: 0, high: top || 1, label: labels[1], show: number });
    if (kind === "roc") svg("line", { class: "chance", x1: plot.px(0), y1: plot.py(0), x2: plot.px(1), y2: plot.py(1) }, plot.root);
    for (const p of shown) {
      const start = kind === "roc" ? 0 : Math.max(0, p.x.findIndex((x) => x >= FIRST));
      const points = p.x.map((x, i) => `${plot.px(x).toFixed(1)} ${plot.py(Math.min(p.y[i], top)).toFixed(1)}`).slice(start);
      const d = `M${points.join("L")}`;
      svg("path", { class: "line", d, style: `stroke:${colour(data.scores.indexOf(p.score))}` }, plot.root);
    }
    if (mark[1] !== null) {
      const [x, y] = [plot.px(mark[0]), plot.py(mark[1])];
      const diamond = svg("path", { class: "policy", d: `M${x} ${y - 8}L${x + 8} ${y}L${x} ${y + 8}L${x - 8} ${y}Z` }, plot.root);
      svg("title", {}, diamond).textContent = `policy: ${percent(mark[0])}, ${percent(mark[1])}`;
    }
    hover(canvas, plot, (x) => [{ words: `${labels[0]} ${percent(x)}` }, ...shown.map((p) => {
      const found = along(p, x);
      return { words: `${p.score}  ${percent(found.y)}  at ${short(p.threshold[found.place])}`, colour: colour(data.scores.indexOf(p.score)) };
    })]);
  }

  function histogram(id, kind, score) {
    const canvas = byId(id);
    const found = data.histograms.find((h) => h.kind === kind && h.score === score);
    if (!found) return nothing(canvas, "This column has no p-values.");
    const sets = data.sets.map((set, index) => ({ ...set, index })).filter((set) => !hidden.sets.has(set.name));
    const shares = sets.map((set) => {
      const total = found.counts[set.index].reduce((a, b) => a + b, 0);
      return found.counts[set.index].map((count) => (total ? count / total : 0));
    });
    const edges = found.edges, top = 1.12 * Math.max(1e-9, ...shares.flat());
    const plot = axes(canvas, { low: edges[0], high: edges[edges.length - 1], label: kind === "score" ? score : "p-value", show: number },
      { low: 0, high: top, label: "share of the set's units", show: (v) => `${number(100 * v)} %` });
    if (kind === "p_value") svg("line", { class: "chance", x1: plot.px(0), x2: plot.px(1), y1: plot.py(1 / (edges.length - 1)), y2: plot.py(1 / (edges.length - 1)) }, plot.root);
    shares.forEach((share, number_) => {
      let d = `M${plot.px(edges[0])} ${plot.py(0)}`;
      share.forEach((value, bin) => { d += `V${plot.py(value).toFixed(1)}H${plot.px(edges[bin + 1]).toFixed(1)}`; });
      const own = colour(sets[number_].index);
      svg("path", { class: "area", d: `${d}V${plot.py(0)}Z`, style: `stroke:${own};fill:${own}` }, plot.root);
    });
    hover(canvas, plot, (x) => {
      let bin = edges.findIndex((edge) => edge >= x) - 1;
      bin = Math.min(edges.length - 2, Math.max(0, bin));
      const range = { words: `${short(edges[bin])} to ${short(edges[bin + 1])}` };
      return [range, ...sets.map((set, i) => ({ words: `${set.name}  ${percent(shares[i][bin])}`, colour: colour(set.index) }))];
    });
  }

  function nothing(canvas, words) {
    const line = document.createElement("p");
    line.className = "none";
    line.textContent = words;
    canvas.replaceChildren(line);
  }

  function choices(id, options, change) {
    const select = byId(id);
    select.replaceChildren(...options.map((words, index) => new Option(words, String(index))));
    select.addEventListener("change", change);
    return select;
  }

  function chips(id, names, off, change) {
    byId(id).replaceChildren(...names.map((name, index) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.textContent = name;
      chip.title = name;
      chip.style.setProperty("--own", colour(index));
      chip.setAttribute("aria-pressed", "true");
      chip.addEventListener("click", () => {
        if (!off.delete(name)) off.add(name);
        chip.setAttribute("aria-pressed", String(!off.has(name)));
        change();
      });
      return chip;
    }));
  }

  if (byId("curves")) {
    const seen = new Map();
    for (const p of data.plots) seen.set(JSON.stringify([p.truth, p.against]), { truth: p.truth, against: p.against });
    const questions = [...seen.values()];
    const words = { errors: "errors of the model on", ood: "OOD:", oms: "out of model scope:", loss: "graded losses of", loss_oms: "graded losses, novel ones 1:" };
    const draw = () => {
      const question = questions[Number(select.value)];
      curves("roc", "roc", question, ["good units refused", "bad units refused"]);
      curves("risk", "risk_coverage", question, ["share accepted", question.truth.startsWith("loss") ? "mean loss of accepted" : "error rate among accepted"]);
    };
    const select = choices("question", questions.map((q) => `${words[q.truth]} ${q.against}`), draw);
    const wanted = [(q) => q.truth === "oms" && q.against === "all", (q) => q.truth === "oms", (q) => q.truth.startsWith("loss")];
    select.value = String(Math.max(0, wanted.map((want) => questions.findIndex(want)).find((place) => place >= 0) ?? 0));
    chips("scores", data.scores, hidden.scores, draw);
    draw();
  }
  const drawBars = () => {
    for (const kind of ["score", "p_value"]) histogram(kind, kind, data.scores[Number(column.value)]);
  };
  const column = choices("column", data.scores, drawBars);
  chips("sets", data.sets.map((set) => set.name), hidden.sets, drawBars);
  drawBars();
})();
