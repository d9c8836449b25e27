// A zoomable map of points on a canvas. The points are drawn into an array of pixels, which takes a few milliseconds for 100,000 of
// them on any computer, with or without a graphics processor.

const LARGEST = 400; // times the scale that shows everything
const NEAR = 14; // pixels from a point within which it is meant

// The pixels of a disc, as offsets.
const disc = (radius) => {
  const offsets = [];
  const whole = Math.ceil(radius);
  for (let y = -whole; y <= whole; y++) for (let x = -whole; x <= whole; x++) if (x * x + y * y <= radius * radius + 0.3) offsets.push([x, y]);
  return offsets;
};

export class PointMap {
  constructor(canvas, { pick, hover, leave }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.on = { pick, hover, leave };
    this.x = this.y = new Float32Array(0);
    this.colours = new Uint32Array(0);
    this.order = new Uint32Array(0);
    this.ground = 0xffffffff;
    this.ink = "#000";
    this.view = { x: 0, y: 0, scale: 1 };
    this.whole = { x: 0, y: 0, scale: 1 };
    this.selected = -1;
    this.mark = null;
    this.pointers = new Map();
    this.frames = 0;
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
  }

  // Shows other points. The view stays if it is that of the same points.
  setPoints(x, y, stay) {
    this.x = x;
    this.y = y;
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < x.length; i++) {
      if (x[i] < left) left = x[i];
      if (x[i] > right) right = x[i];
      if (y[i] < top) top = y[i];
      if (y[i] > bottom) bottom = y[i];
    }
    this.bounds = x.length ? [left, right, top, bottom] : [0, 1, 0, 1];
    this.resize();
    if (!stay) this.fit();
  }

  // `colours` are pixels, `order` has the points that are drawn last at its end.
  setColours(colours, order) {
    this.colours = colours;
    this.order = order;
    this.draw();
  }

  setTheme(ground, ink) {
    this.ground = ground;
    this.ink = ink;
    this.draw();
  }

  select(point) {
    this.selected = point;
    this.draw();
  }

  // Marks a place that is no point: that of a photo.
  setMark(place) {
    this.mark = place;
    this.draw();
  }

  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const { clientWidth, clientHeight } = this.canvas;
    const [width, height] = [Math.max(1, Math.round(clientWidth * ratio)), Math.max(1, Math.round(clientHeight * ratio))];
    if (!this.image || width !== this.image.width || height !== this.image.height) {
      const zoom = this.view.scale / this.whole.scale;
      this.canvas.width = width;
      this.canvas.height = height;
      this.ratio = ratio;
      this.image = this.context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
      this.measure();
      this.view.scale = this.whole.scale * zoom;
    } else {
      this.measure();
    }
    this.draw();
  }

  measure() {
    if (!this.bounds || !this.image) return;
    const [left, right, top, bottom] = this.bounds;
    const scale = 0.92 * Math.min(this.image.width / (right - left || 1), this.image.height / (bottom - top || 1));
    this.whole = { x: (left + right) / 2, y: (top + bottom) / 2, scale };
  }

  fit() {
    this.view = { ...this.whole };
    this.draw();
  }

  draw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.paint();
    });
  }

  paint() {
    const { image, pixels, view, x, y, colours, order } = this;
    if (!image) return;
    const { width, height } = image;
    pixels.fill(this.ground);
    const few = x.length <= 2000 ? 3.2 : x.length <= 20000 ? 2.2 : 1.2;
    const radius = this.ratio * Math.min(7, few * Math.max(1, (view.scale / this.whole.scale) ** 0.3));
    const shape = disc(radius);
    const steps = shape.map(([dx, dy]) => dy * width + dx);
    const edge = Math.ceil(radius) + 1;
    const [left, top] = [width / 2 - view.x * view.scale, height / 2 + view.y * view.scale];
    const count = order.length;
    for (let at = 0; at < count; at++) {
      const i = order[at];
      const px = Math.round(left + x[i] * view.scale);
      const py = Math.round(top - y[i] * view.scale);
      if (px < edge || py < edge || px >= width - edge || py >= height - edge) continue;
      const colour = colours[i];
      const middle = py * width + px;
      for (let s = 0; s < steps.length; s++) pixels[middle + steps[s]] = colour;
    }
    this.context.putImageData(image, 0, 0);
    this.overlay(radius);
    this.frames += 1;
  }

  overlay(radius) {
    const { context, ratio } = this;
    context.strokeStyle = this.ink;
    context.lineWidth = 2 * ratio;
    if (this.selected >= 0 && this.selected < this.x.length) {
      const [px, py] = this.place(this.x[this.selected], this.y[this.selected]);
      context.beginPath();
      context.arc(px, py, radius + 4 * ratio, 0, 7);
      context.stroke();
    }
    if (this.mark) this.cross(...this.place(...this.mark), 10 * ratio);
    if (document.activeElement === this.canvas && this.byKey) this.cross(this.image.width / 2, this.image.height / 2, 7 * ratio);
  }

  cross(px, py, arm) {
    const { context } = this;
    context.beginPath();
    context.moveTo(px - arm, py);
    context.lineTo(px + arm, py);
    context.moveTo(px, py - arm);
    context.lineTo(px, py + arm);
    context.stroke();
  }

  place(x, y) {
    const { view, image } = this;
    return [image.width / 2 + (x - view.x) * view.scale, image.height / 2 - (y - view.y) * view.scale];
  }

  // The point nearest to a place in pixels of the canvas; -1 without one.
  nearest(px, py, most) {
    const { view, image, x, y, colours } = this;
    const cx = view.x + (px - image.width / 2) / view.scale;
    const cy = view.y - (py - image.height / 2) / view.scale;
    let [best, least] = [-1, (most / view.scale) ** 2];
    for (let i = 0; i < x.length; i++) {
      const distance = (x[i] - cx) ** 2 + (y[i] - cy) ** 2;
      if (distance < least && colours[i] !== this.ground) [best, least] = [i, distance];
    }
    return best;
  }

  zoom(factor, px = this.image.width / 2, py = this.image.height / 2) {
    const { view, image } = this;
    const scale = Math.min(this.whole.scale * LARGEST, Math.max(this.whole.scale / 2, view.scale * factor));
    const [dx, dy] = [(px - image.width / 2) / view.scale, (py - image.height / 2) / view.scale];
    const kept = view.scale / scale;
    this.view = { x: view.x + dx * (1 - kept), y: view.y - dy * (1 - kept), scale };
    this.draw();
  }

  pan(dx, dy) {
    this.view = { ...this.view, x: this.view.x - dx / this.view.scale, y: this.view.y + dy / this.view.scale };
    this.draw();
  }

  // Moves to a point, without changing the scale.
  show(point) {
    this.view = { ...this.view, x: this.x[point], y: this.y[point] };
    this.select(point);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left - this.canvas.clientLeft) * this.ratio, (event.clientY - box.top - this.canvas.clientTop) * this.ratio];
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      this.zoom(Math.exp(-event.deltaY * lines * 0.0016), ...this.at(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      this.byKey = false;
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.at(event));
      if (this.pointers.size === 1) this.moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => this.move(event));
    const up = (event) => {
      const alone = this.pointers.delete(event.pointerId) && this.pointers.size === 0;
      if (alone && this.moved < 5 * this.ratio && event.type === "pointerup") {
        const point = this.nearest(...this.at(event), NEAR * this.ratio);
        if (point >= 0) this.on.pick(point);
      }
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => this.on.leave());
    canvas.addEventListener("dblclick", (event) => this.zoom(2, ...this.at(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => {
      this.byKey = canvas.matches(":focus-visible");
      this.draw();
    });
    canvas.addEventListener("blur", () => this.draw());
  }

  move(event) {
    const now = this.at(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      const point = this.nearest(...now, NEAR * this.ratio);
      return this.on.hover(point, now[0] / this.ratio, now[1] / this.ratio);
    }
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    this.moved += Math.hypot(dx, dy);
    if (this.pointers.size === 1) {
      this.pan(dx, dy);
    } else {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const length = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
      this.pan(dx / 2, dy / 2);
      this.zoom(length(now, other) / length(before, other), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    this.pointers.set(event.pointerId, now);
    this.on.leave();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 0.12 * Math.min(this.image.width, this.image.height);
    const keys = {
      ArrowLeft: () => this.pan(step, 0),
      ArrowRight: () => this.pan(-step, 0),
      ArrowUp: () => this.pan(0, step),
      ArrowDown: () => this.pan(0, -step),
      "+": () => this.zoom(1.4),
      "=": () => this.zoom(1.4),
      "-": () => this.zoom(1 / 1.4),
      0: () => this.fit(),
      Enter: () => {
        const point = this.nearest(this.image.width / 2, this.image.height / 2, Infinity);
        if (point >= 0) this.on.pick(point);
      },
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    this.byKey = true;
    keys[event.key]();
  }
}
