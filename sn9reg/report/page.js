"use strict";
(() => {
  const views = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const canvas = at("canvas"), context = canvas.getContext("2d");
  const form = at("controls"), amount = at("amount"), view = at("view"), left = at("left"), right = at("right");
  const images = new Map();
  let second = false; // which of the two a blink shows

  const mode = () => form.elements["mode"].value;
  const here = () => views[Number(view.value)];

  function image(key) {
    const source = here().layers[key];
    if (!images.has(source)) {
      const made = new Image();
      made.onload = draw;
      made.src = source;
      images.set(source, made);
    }
    return images.get(source);
  }

  function part(key, x, y, width, height) {
    const made = image(key);
    if (made.complete && made.naturalWidth && width > 0 && height > 0) {
      context.drawImage(made, x, y, width, height, x, y, width, height);
    }
  }

  function draw() {
    const { width, height } = here();
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    context.clearRect(0, 0, width, height);
    const share = Number(amount.value) / 100;
    if (mode() === "blink") {
      part(second ? right.value : left.value, 0, 0, width, height);
    } else if (mode() === "swipe") {
      const edge = Math.round(share * width);
      part(left.value, 0, 0, edge, height);
      part(right.value, edge, 0, width - edge, height);
      context.fillStyle = "#ffcc00";
      context.fillRect(edge - 1, 0, 2, height);
    } else {
      const side = Math.max(8, Math.round((0.03 + 0.25 * share) * Math.max(width, height)));
      part(left.value, 0, 0, width, height);
      for (let row = 0; row * side < height; row += 1) {
        for (let column = (row + 1) % 2; column * side < width; column += 2) {
          const x = column * side, y = row * side;
          part(right.value, x, y, Math.min(side, width - x), Math.min(side, height - y));
        }
      }
    }
    at("amount-name").textContent = mode() === "checkerboard" ? "Size of tiles" : "Divide";
    amount.disabled = mode() === "blink";
    const scale = here().per_pixel === 1 ? "full resolution" : `1 pixel shows ${here().per_pixel} x ${here().per_pixel}`;
    at("where").textContent = `${here().where}; ${scale}.`;
    const shown = mode() === "blink" ? (second ? right.value : left.value) : `${left.value}, ${right.value}`;
    canvas.dataset.shows = `${mode()} ${shown} ${amount.value}`;
  }

  function drag(event) {
    if (event.buttons !== 1 || mode() !== "swipe") return;
    const box = canvas.getBoundingClientRect();
    amount.value = String(Math.round(((event.clientX - box.left) / box.width) * 100));
    draw();
  }

  function pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const key = event.key.toLowerCase();
    const choose = { b: "blink", c: "checkerboard", s: "swipe" }[key];
    if (choose && event.target.tagName !== "SELECT") {
      form.elements["mode"].value = choose;
    } else if (key === "x" && event.target.tagName !== "SELECT") {
      const other = { before: "after", after: "before" };
      for (const side of [left, right]) side.value = other[side.value] ?? side.value;
    } else if (/^[1-9]$/.test(key) && Number(key) <= views.length) {
      view.value = String(Number(key) - 1);
    } else if (event.target === canvas && (key === "arrowleft" || key === "arrowright")) {
      amount.value = String(Number(amount.value) + (key === "arrowright" ? 2 : -2));
    } else {
      return;
    }
    event.preventDefault();
    draw();
  }

  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", drag);
  canvas.addEventListener("pointermove", drag);
  document.addEventListener("keydown", pressed);
  setInterval(() => { second = !second; if (mode() === "blink") draw(); }, 700);
  draw();
})();
