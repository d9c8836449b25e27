"use strict";
(async () => {
  const find = (id) => document.getElementById(id);
  const make = (tag, className = "", text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
  // Characters that a reader does not see, as escapes. The list is that of src/error.rs.
  const shown = (text) => text.replace(
    /[\p{Cc}\u00ad\u061c\u180e\ufeff\u200b-\u200f\u2028-\u202e\u2060-\u2069\u{e0000}-\u{e007f}]/gu,
    (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

  const inflate = async (id) => {
    const text = atob(find(id).textContent), bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  };
  const about = JSON.parse(find("about").textContent), rows = about.rows;
  const [numbers, json] = await Promise.all([inflate("points"), inflate("texts")]);
  const texts = JSON.parse(new TextDecoder().decode(json));
  const pictures = new Map(texts.pictures);
  const planes = new Uint8Array(numbers);
  let used = 0;
  const next = (count) => {
    const column = new Uint32Array(rows);
    for (let plane = 0; plane < count; plane++, used += rows) {
      for (let row = 0; row < rows; row++) column[row] |= planes[used + row] << (8 * plane);
    }
    return column;
  };
  const raw = about.columns.map((column) => next(column.planes));
  const labels = next(about.label_planes);
  const scores = raw.map((column, i) => Float32Array.from(column, (number) => number * about.columns[i].step));

  // Lists as CSV.
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  for (const button of document.querySelectorAll("button[data-list]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const list = texts.lists[button.dataset.list];
      const csv = [list.head, ...list.rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
      const link = make("a");
      link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
      link.download = `${button.dataset.list}-v${find("about").dataset.version}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
  }

  const preview = (row) => {
    const place = pictures.get(texts.paths[row]);
    const picture = make("span", place ? `pic ${place.size}` : "pic small none", place ? "" : "no preview");
    if (place) picture.style.backgroundPosition = place.position;
    picture.setAttribute("aria-hidden", "true");
    return picture;
  };
  const nameOf = (row) => shown(texts.paths[row]), labelOf = (row) => shown(texts.labels[labels[row]] ?? "");

  // Nearest neighbours by Euclidean distance: squares of all drawn images, then the smallest few of them.
  const nearest = (row, count, accepts) => {
    const squares = new Float32Array(rows);
    for (const column of scores) {
      const own = column[row];
      for (let other = 0; other < rows; other++) squares[other] += (column[other] - own) ** 2;
    }
    const best = [];
    for (let other = 0; other < rows; other++) {
      if (other === row || (best.length === count && squares[other] >= squares[best[count - 1]]) || !accepts(other)) continue;
      let place = best.length;
      while (place > 0 && squares[best[place - 1]] > squares[other]) place--;
      best.splice(place, 0, other);
      best.length = Math.min(best.length, count);
    }
    return best.map((other) => [other, Math.sqrt(squares[other])]);
  };

  const NEIGHBOURS = 6;
  const panel = find("selected"), card = find("card");
  const off = new Set();
  let rest = false;
  const boxes = [...document.querySelectorAll(".filter input")];
  const named = boxes.filter((box) => box.dataset.label !== "rest").length;
  const visible = (row) => (labels[row] < named || !boxes.length ? !off.has(labels[row]) : !rest);
  let selected = -1, neighbours = [];

  const entry = (row, distance) => {
    const item = make("li"), button = make("button");
    button.type = "button";
    button.title = nameOf(row);
    button.append(preview(row), make("bdi", "label", labelOf(row)), make("small", "", `distance ${distance.toFixed(2)}`),
      make("bdi", "name", shown(texts.paths[row].split("/").pop())));
    button.addEventListener("click", () => { select(row); panel.focus({ preventScroll: true }); });
    item.append(button);
    return item;
  };
  const list = (title, found) => {
    const items = make("ol", "pictures");
    items.append(...found.map(([row, distance]) => entry(row, distance)));
    panel.append(make("h3", "", title), items);
  };
  const select = (row) => {
    selected = row;
    neighbours = row < 0 ? [] : nearest(row, NEIGHBOURS, () => true);
    panel.hidden = row < 0;
    panel.replaceChildren();
    if (row >= 0) {
      const head = make("div", "head"), names = make("div");
      names.append(make("bdi", "path", nameOf(row)), make("bdi", "label", labelOf(row)));
      head.append(preview(row), names);
      panel.append(make("h3", "", "Selected image"), head);
      list("Nearest neighbours", neighbours);
      if (neighbours.some(([other]) => !pictures.has(texts.paths[other]))) {
        list("Nearest neighbours among the images with a preview", nearest(row, NEIGHBOURS, (other) => pictures.has(texts.paths[other])));
      }
    }
    for (const map of maps) map.draw();
  };

  // A map: the points of two components on a canvas above the axes.
  const [WIDTH, HEIGHT, FINE] = [640, 430, 4095];
  const radius = rows <= 1000 ? 4 : rows <= 5000 ? 3 : rows <= 30000 ? 2 : 1.2;
  class Scatter {
    constructor(figure) {
      this.canvas = figure.querySelector("canvas");
      const [left, bottom, right, top] = figure.dataset.corners.split(" ").map(Number);
      const [x, y] = [raw[+figure.dataset.first], raw[+figure.dataset.first + 1]];
      this.x = Float32Array.from(x, (n) => left + (n / FINE) * (right - left));
      this.y = Float32Array.from(y, (n) => bottom + (n / FINE) * (top - bottom));
      this.canvas.addEventListener("click", (event) => {
        const row = this.at(event, event.pointerType === "touch" ? 24 : 12);
        if (row >= 0) select(row);
      });
      this.canvas.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") this.hover(event); });
      this.canvas.addEventListener("pointerleave", () => { card.hidden = true; });
      this.canvas.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => this.draw()).observe(this.canvas);
    }

    draw() {
      const { canvas } = this, scale = canvas.clientWidth / WIDTH, density = scale * devicePixelRatio;
      if (!scale) return;
      canvas.width = Math.round(WIDTH * density);
      canvas.height = Math.round(HEIGHT * density);
      const context = canvas.getContext("2d"), size = radius / Math.min(scale, 1);
      context.scale(density, density);
      context.globalAlpha = 0.8;
      let label = -1;
      for (let row = 0; row < rows; row++) {
        if (!visible(row)) continue;
        if (labels[row] !== label) {
          label = labels[row];
          context.fillStyle = texts.colours[label % texts.colours.length];
        }
        if (size < 2) {
          context.fillRect(this.x[row] - size, this.y[row] - size, 2 * size, 2 * size);
        } else {
          context.beginPath();
          context.arc(this.x[row], this.y[row], size, 0, 7);
          context.fill();
        }
      }
      this.rings(context, Math.max(size, 3) + 2);
    }

    rings(context, size) {
      if (selected < 0) return;
      context.globalAlpha = 1;
      context.strokeStyle = getComputedStyle(this.canvas).color;
      for (const [row, width] of [...neighbours.map(([other]) => [other, 1.5]), [selected, 3]]) {
        context.lineWidth = width;
        context.beginPath();
        context.arc(this.x[row], this.y[row], size + width, 0, 7);
        context.stroke();
      }
    }

    // The image at a place of the screen, at most `reach` pixels away; -1 if there is none.
    at(event, reach) {
      const box = this.canvas.getBoundingClientRect(), scale = WIDTH / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = -1, least = (reach * scale) ** 2;
      for (let row = 0; row < rows; row++) {
        const square = (this.x[row] - x) ** 2 + (this.y[row] - y) ** 2;
        if (square <= least && visible(row)) [best, least] = [row, square];
      }
      return best;
    }

    hover(event) {
      const row = this.at(event, 8);
      card.hidden = row < 0;
      if (row < 0) return;
      const names = make("div");
      names.append(make("bdi", "path", nameOf(row)), make("bdi", "label", labelOf(row)));
      card.replaceChildren(preview(row), names);
      const size = card.getBoundingClientRect(), above = event.clientY - size.height - 12;
      card.style.left = `${Math.max(8, Math.min(event.clientX + 12, innerWidth - size.width - 8))}px`;
      card.style.top = `${above > 8 ? above : event.clientY + 16}px`;
    }

    key(event) {
      const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Escape") select(-1);
      else if (direction) this.move(...direction);
      else return;
      event.preventDefault();
    }

    // Selects the closest image in a direction; without a selection, the one closest to the middle.
    move(right, down) {
      const from = selected >= 0 ? [this.x[selected], this.y[selected]] : [WIDTH / 2, HEIGHT / 2];
      let best = -1, least = Infinity;
      for (let row = 0; row < rows; row++) {
        const x = this.x[row] - from[0], y = this.y[row] - from[1];
        const along = x * right + y * down, aside = Math.abs(x * down + y * right);
        const ahead = selected < 0 || (row !== selected && along > 0 && aside <= along);
        const cost = x * x + y * y;
        if (ahead && cost < least && visible(row)) [best, least] = [row, cost];
      }
      if (best >= 0) select(best);
    }
  }
  const maps = [...document.querySelectorAll(".scatter")].map((figure) => new Scatter(figure));
  addEventListener("scroll", () => { card.hidden = true; }, { passive: true });
  matchMedia("(prefers-color-scheme:dark)").addEventListener("change", () => maps.forEach((map) => map.draw()));

  const filter = () => {
    off.clear();
    rest = boxes.some((box) => box.dataset.label === "rest" && !box.checked);
    for (const box of boxes) if (!box.checked) off.add(Number(box.dataset.label));
    for (const map of maps) map.draw();
  };
  for (const box of boxes) box.addEventListener("change", filter);
  for (const button of document.querySelectorAll(".filter button")) {
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = button.dataset.all === "1";
      filter();
    });
  }
  // A browser may keep the boxes as they were before a reload.
  filter();

  const form = find("find");
  form.hidden = !rows;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = form.elements.text.value.trim().toLowerCase(), status = form.querySelector("[role=status]");
    const found = [];
    if (wanted) texts.paths.forEach((path, row) => { if (path.toLowerCase().includes(wanted) && visible(row)) found.push(row); });
    if (found.length) select(found.find((row) => row > selected) ?? found[0]);
    status.textContent = found.length ? `image ${found.indexOf(selected) + 1} of ${found.length}` : "no image";
  });
  document.body.dataset.ready = "1";
})();
