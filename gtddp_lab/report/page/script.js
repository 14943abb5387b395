"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // Show and hide series.
  const hidden = new Set();
  for (const button of all(".toggle")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      const key = button.dataset.toggle;
      const shown = hidden.delete(key);
      if (!shown) hidden.add(key);
      button.setAttribute("aria-pressed", String(shown));
      for (const mark of all(`[data-series="${key}"]`)) mark.classList.toggle("off", !shown);
      leave();
    });
  }

  // Switch the vertical scale of all charts that have two.
  all(".switches").forEach((switches) => { switches.hidden = false; });
  const scale = document.getElementById("scale");
  scale.addEventListener("click", () => {
    const log = scale.getAttribute("aria-pressed") !== "true";
    scale.setAttribute("aria-pressed", String(log));
    for (const chart of all(".charts .chart")) {
      const scales = all(".scale", chart);
      if (scales.length < 2 || scales[0].dataset.scale !== "log") continue;
      for (const one of scales) one.hidden = (one.dataset.scale === "log") !== log;
    }
    leave();
  });

  // Light and dark: follow the system until the reader chooses.
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const paint = () => {
    const dark = chosen === null ? system.matches : chosen;
    root.style.colorScheme = dark ? "dark" : "light";
    theme.setAttribute("aria-pressed", String(dark));
  };
  theme.addEventListener("click", () => {
    chosen = theme.getAttribute("aria-pressed") !== "true";
    paint();
  });
  system.addEventListener("change", paint);
  paint();

  // Show the values at the cursor.
  let active = null;
  const leave = () => {
    if (active === null) return;
    for (const part of all(".cursor, .tip", active)) part.hidden = true;
    active = null;
  };
  const short = (value) => (value === null || value === undefined ? "not finite" : String(Number(value.toPrecision(5))));
  const tone = (plot, key) => plot.querySelector(`[data-series="${key}"]`).classList[0];
  const line = (plot, key, curve, epoch) => {
    const row = document.createElement("span");
    row.dataset.key = key;
    row.className = tone(plot, key);
    const name = document.createElement("i");
    name.textContent = data.labels[key];
    const bands = curve.bands.map(([low, high]) => `${short(low[epoch])} to ${short(high[epoch])}`);
    row.append(name, ` ${short(curve.middle[epoch])}`, bands.length ? ` (${bands.reverse().join("; ")})` : "");
    return row;
  };
  const visit = (plot, epoch) => {
    if (active !== plot) leave();
    active = plot;
    const chart = data.charts[plot.closest(".chart").dataset.chart];
    const [cursor, tip] = [plot.querySelector(".cursor"), plot.querySelector(".tip")];
    const place = chart.last === 1 ? 0.5 : epoch / (chart.last - 1);
    const title = document.createElement("b");
    title.textContent = `epoch ${epoch + 1}`;
    const rows = Object.entries(chart.curves)
      .filter(([key, curve]) => !hidden.has(key) && epoch < curve.middle.length)
      .map(([key, curve]) => line(plot, key, curve, epoch));
    tip.replaceChildren(title, ...rows);
    cursor.style.left = `${100 * place}%`;
    tip.style.left = place < 0.5 ? `calc(${100 * place}% + .6rem)` : "auto";
    tip.style.right = place < 0.5 ? "auto" : `calc(${100 - 100 * place}% + .6rem)`;
    plot.dataset.epoch = epoch;
    cursor.hidden = tip.hidden = false;
  };
  for (const plot of all(".plot")) {
    const last = data.charts[plot.closest(".chart").dataset.chart].last - 1;
    const at = (event) => {
      const box = plot.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      visit(plot, Math.round(share * last));
    };
    plot.addEventListener("pointermove", at);
    plot.addEventListener("pointerdown", at);
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("blur", leave);
    plot.addEventListener("keydown", (event) => {
      const now = active === plot ? Number(plot.dataset.epoch) : null;
      const steps = { ArrowLeft: now === null ? last : now - 1, ArrowRight: now === null ? 0 : now + 1, Home: 0, End: last };
      if (!(event.key in steps)) return;
      event.preventDefault();
      visit(plot, Math.min(last, Math.max(0, steps[event.key])));
    });
  }

  // Stages: one tab stop; arrow keys move between stages, Escape closes the facts.
  for (const list of all(".stages")) {
    const nodes = all("button.node", list);
    const take = (chosenNode) => nodes.forEach((node) => { node.tabIndex = node === chosenNode ? 0 : -1; });
    take(nodes[0]);
    nodes.forEach((node, i) => {
      const stage = node.closest(".stage");
      const open = () => stage.classList.remove("closed");
      node.addEventListener("focus", () => { take(node); open(); });
      node.addEventListener("pointerenter", open);
      node.addEventListener("keydown", (event) => {
        const to = { ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: nodes.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        nodes[Math.min(nodes.length - 1, Math.max(0, to))].focus();
      });
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    leave();
    for (const stage of all(".stage")) stage.classList.add("closed");
  });
})();
