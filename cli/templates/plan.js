"use strict";
// The page is whole without any of this: it adds a switch for the colours and a reading under the pointer.
(() => {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
  });

  for (const chart of document.querySelectorAll("svg.chart")) {
    const lines = [...chart.querySelectorAll("path.line")].map((path) => ({
      name: path.dataset.name,
      samples: JSON.parse(path.dataset.samples),
    }));
    const hair = chart.querySelector(".hair");
    const reading = chart.parentElement.querySelector(".reading");
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * 360;
      if (x < 46 || x > 348) return leave();
      hair.setAttribute("d", `M${x.toFixed(1)},14V196`);
      hair.style.visibility = "visible";
      const near = lines.filter((line) => line.samples.length && x <= line.samples.at(-1)[0] + 6).map((line) => {
        const sample = line.samples.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
        return `${line.name}: ${sample[2]}`;
      });
      reading.textContent = near.join(" · ");
    });
    const leave = () => {
      hair.style.visibility = "hidden";
      reading.textContent = "";
    };
    chart.addEventListener("pointerleave", leave);
  }
})();
