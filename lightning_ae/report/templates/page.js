(function () {
  "use strict";
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const charts = read("data-charts"), about = read("data-about");
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const tip = document.getElementById("tip");
  const views = {};
  let chosen = null, picked = null;

  function config() {
    const soft = style("--soft"), line = style("--line"), font = getComputedStyle(document.body).fontFamily;
    return {
      background: null, font, padding: 2, autosize: { type: "fit-x", contains: "padding" },
      view: { stroke: null },
      axis: {
        labelColor: soft, titleColor: soft, gridColor: line, domain: false, ticks: false, labelFontSize: 11,
        titleFontSize: 11, titleFontWeight: "normal", labelPadding: 6, titlePadding: 8, grid: true,
      },
      axisX: { grid: false, domain: true, domainColor: line },
    };
  }

  function hide() { tip.style.display = "none"; }

  function thumbnail(i) {
    const sprite = about.thumbnails;
    if (!sprite) return null;
    const box = document.createElement("div"), across = sprite.columns - 1, down = sprite.rows - 1;
    box.className = "thumb small";
    box.style.height = 84 * sprite.height / sprite.width + "px";
    box.style.backgroundImage = "url(" + document.getElementById("thumbnails").src + ")";
    box.style.backgroundSize = sprite.columns * 100 + "% " + sprite.rows * 100 + "%";
    const x = i % sprite.columns, y = Math.floor(i / sprite.columns);
    box.style.backgroundPosition = (across ? 100 * x / across : 0) + "% " + (down ? 100 * y / down : 0) + "%";
    return box;
  }

  function hover(handler, event, item, value) {
    if (value === null || value === undefined || value === "") return hide();
    tip.replaceChildren();
    if (item && item.datum && item.datum.i !== undefined) {
      const i = item.datum.i, image = thumbnail(i);
      if (image) tip.append(image);
      tip.append((about.captions[i] ? about.captions[i] + " \u00b7 " : "") + "row " + i);
    } else {
      for (const [name, text] of Object.entries(value)) {
        const row = document.createElement("div");
        row.textContent = name + ": " + text;
        tip.append(row);
      }
    }
    tip.style.display = "block";
    const box = tip.getBoundingClientRect(), gap = 14;
    const left = event.clientX + gap + box.width > innerWidth ? event.clientX - gap - box.width : event.clientX + gap;
    const top = event.clientY + gap + box.height > innerHeight ? event.clientY - gap - box.height : event.clientY + gap;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, top) + "px";
  }

  async function draw() {
    const options = { mode: "vega-lite", actions: false, renderer: "svg", config: config(), tooltip: hover };
    for (const [name, chart] of Object.entries(charts)) {
      const place = document.getElementById("chart-" + name);
      if (!place) continue;
      if (views[name]) views[name].finalize();
      views[name] = await vegaEmbed(place, chart, options);
    }
    pick(picked);
    root.dataset.drawn = "true";
  }

  function theme() {
    root.dataset.theme = chosen || (preferred.matches ? "dark" : "light");
  }

  function pick(k) {
    picked = k;
    if (views.map) views.map.view.signal("picked", k).runAsync();
    for (const button of document.querySelectorAll(".classes button")) {
      button.setAttribute("aria-pressed", String(k !== null && Number(button.dataset.k) === k));
    }
  }

  document.getElementById("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    theme();
    draw();
  });
  preferred.addEventListener("change", () => { theme(); draw(); });
  addEventListener("scroll", hide, { passive: true });

  for (const button of document.querySelectorAll(".classes button")) {
    const k = Number(button.dataset.k);
    button.addEventListener("click", () => pick(picked === k ? null : k));
  }

  for (const slider of document.querySelectorAll(".slider")) {
    const input = slider.querySelector("input"), view = slider.querySelector(".view");
    const output = slider.querySelector("output"), steps = JSON.parse(slider.dataset.steps);
    const show = () => {
      view.style.backgroundPosition = (steps.length > 1 ? 100 * input.value / (steps.length - 1) : 0) + "% 0";
      output.textContent = steps[input.value];
    };
    input.addEventListener("input", show);
    show();
  }

  theme();
  draw();
})();
