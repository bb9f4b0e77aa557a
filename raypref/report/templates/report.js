"use strict";
// Draws every figure with the colours of the page, and again when the reader changes between light and dark.
(() => {
  const figures = [...document.querySelectorAll("figure")].map((figure) => ({
    target: figure.querySelector(".plot"),
    content: figure.querySelector("script").textContent,
  }));
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const themed = (value) => {
    if (typeof value === "string" && /^(colour-\d+|rule)$/.test(value)) {
      return colour(value.replace(/\d+$/, (digits) => String(Number(digits) % 10)));
    }
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
    return value;
  };
  const axis = () => ({
    gridcolor: colour("rule"), linecolor: colour("rule"), zerolinecolor: colour("rule"), tickcolor: colour("rule"),
    gridwidth: 0.5, zerolinewidth: 0.5, automargin: true, title: { standoff: 8 }, exponentformat: "power", minor: { showgrid: false },
  });
  const merged = (base, more) => {
    const result = { ...base };
    for (const [key, value] of Object.entries(more)) {
      const nested = value && typeof value === "object" && !Array.isArray(value) && typeof result[key] === "object";
      result[key] = nested ? merged(result[key], value) : value;
    }
    return result;
  };
  const draw = () => {
    for (const { target, content } of figures) {
      const figure = themed(JSON.parse(content));
      const layout = merged({
        height: 250, margin: { l: 50, r: 12, t: 10, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("soft") }, xaxis: axis(), yaxis: axis(),
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, hovermode: "closest",
        hoverlabel: { bgcolor: colour("card"), bordercolor: colour("rule"), font: { color: colour("ink") } }, bargap: 0.25,
      }, figure.layout);
      Plotly.react(target, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
