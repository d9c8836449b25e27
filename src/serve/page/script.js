// The page of `pomona serve`. Everything that comes from the data set is shown as text, never as HTML.

import { PointMap } from "/map.js";

const SUSPECT = 1, OUTLIER = 2, DUPLICATE = 4;
const PAGE = 60; // images that a list shows at once
const POLL = 4000; // milliseconds between two looks for a newer version
const LEGEND = 300; // labels in the legend
const PALETTE = ["#1b7f5c", "#c2571a", "#4a62c4", "#b23a7d", "#7d7a12", "#1f7f9e", "#8a4fc0", "#a34a3a", "#4f7f2a", "#8b6a3c", "#2f6fb0", "#b8458f"];

const $ = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString("en");
const percent = (p) => `${(100 * p).toFixed(p > 0.999 && p < 1 ? 2 : 1)}\u00a0%`;

// An element with properties and children. A string child is text.
const make = (name, properties = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
};

const failed = (answer) => Object.assign(new Error(`${answer.error}: ${answer.message}`), { named: answer.error });

const ask = async (path, options) => {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw failed(answer);
  return answer;
};

const query = (values) => {
  const present = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(present.map(([key, value]) => [key, String(value)])).toString();
};

let noted;
const note = (text, kind = "") => {
  $("note").replaceChildren(make("p", { className: kind }, text));
  clearTimeout(noted);
  noted = setTimeout(() => $("note").replaceChildren(), 7000);
};
const complain = (error) => note(error.message, "problem");

// ---- The data set --------------------------------------------------------------------------------------------------

const data = { version: 0, images: 0, labels: [], splits: [], label: [], split: [], flags: [], counts: [] };
const reviewed = new Map();
let chosen = null; // the label or split that the legend shows alone

const read = (buffer) => {
  const bytes = new DataView(buffer);
  const length = bytes.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const n = header.images;
  let at = Math.ceil((4 + length) / 4) * 4;
  const take = (kind, size) => {
    const part = new kind(buffer, at, n);
    at += n * size;
    return part;
  };
  return { ...header, x: take(Float32Array, 4), y: take(Float32Array, 4), label: take(Uint32Array, 4), split: take(Uint8Array, 1), flags: take(Uint8Array, 1) };
};

const load = async () => {
  const response = await fetch("/api/points");
  if (!response.ok) throw failed(await response.json());
  const again = data.version > 0;
  Object.assign(data, read(await response.arrayBuffer()));
  data.counts = new Array(data.labels.length + 1).fill(0);
  for (const label of data.label) data.counts[Math.min(label, data.labels.length)] += 1;
  $("name").textContent = data.name || "Pomona";
  document.title = `${data.name || "data set"} - Pomona`;
  const share = data.explained.length ? `; the map shows ${percent(data.explained.reduce((a, b) => a + b, 0))} of the variance` : "";
  $("about").textContent = `Version ${data.version}: ${number(data.images)} images, ${number(data.labels.length)} labels${share}`;
  const options = data.labels.map((label, i) => [label, data.counts[i]]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
  const before = $("label").value;
  $("label").replaceChildren(make("option", { value: "" }, "all"), ...options.map(([label, count]) => make("option", { value: label }, `${label} (${number(count)})`)));
  $("label").value = data.labels.includes(before) ? before : "";
  $("known").replaceChildren(...options.map(([label]) => make("option", { value: label })));
  map.select(-1);
  map.setPoints(data.x, data.y, again);
  chosen = null;
  paint();
  document.documentElement.dataset.version = data.version;
  performance.mark("points");
};

// ---- Colours -------------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const lighter = (hex) => `#${[1, 3, 5].map((i) => Math.round(parseInt(hex.slice(i, i + 2), 16) * 0.62 + 255 * 0.38).toString(16).padStart(2, "0")).join("")}`;
const pixel = (hex) => (0xff000000 | (parseInt(hex.slice(5, 7), 16) << 16) | (parseInt(hex.slice(3, 5), 16) << 8) | parseInt(hex.slice(1, 3), 16)) >>> 0;
const hue = (i) => {
  const channel = (n) => {
    const k = (n + (i * 137.508) / 30) % 12;
    return Math.round(255 * (0.42 - 0.28 * Math.max(-1, Math.min(k - 3, 9 - k, 1)))).toString(16).padStart(2, "0");
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
};
const colour = (i) => {
  const hex = i < PALETTE.length ? PALETTE[i] : hue(i);
  return dark.matches ? lighter(hex) : hex;
};
const grey = () => (dark.matches ? "#6a756e" : "#9aa59d");
const dim = () => (dark.matches ? "#2b332f" : "#dfe4df");
const KINDS = [["suspect", SUSPECT, "#c23b22"], ["outlier", OUTLIER, "#4a62c4"], ["duplicate", DUPLICATE, "#1b7f5c"]];

// What the points are coloured by: the name and the colour of each value, and the value of each point.
const colouring = () => {
  if ($("colour").value === "suspect") {
    const names = [...KINDS.map(([name, , hex]) => [name, dark.matches ? lighter(hex) : hex]), ["none of these", grey()]];
    const of = (i) => (data.flags[i] & SUSPECT ? 0 : data.flags[i] & OUTLIER ? 1 : data.flags[i] & DUPLICATE ? 2 : 3);
    return { names, of, last: 3 };
  }
  const bySplit = $("colour").value === "split";
  const all = bySplit ? data.splits : data.labels;
  const values = bySplit ? data.split : data.label;
  const names = [...all.map((name, i) => [name, colour(i)]), [bySplit ? "without a split" : "without a label", grey()]];
  return { names, of: (i) => Math.min(values[i], all.length), last: all.length };
};

const paint = () => {
  const { names, of, last } = colouring();
  const shades = names.map(([, hex]) => pixel(hex));
  const off = pixel(dim());
  const [colours, counts] = [new Uint32Array(data.images), new Array(names.length).fill(0)];
  const values = new Uint32Array(data.images);
  for (let i = 0; i < data.images; i++) {
    const value = of(i);
    values[i] = value;
    counts[value] += 1;
    colours[i] = chosen === null || chosen === value ? shades[value] : off;
  }
  // Rare findings, and what the legend shows alone, are drawn over the others.
  const order = new Uint32Array(data.images);
  let at = 0;
  const behind = (i) => (chosen === null ? values[i] === last : values[i] !== chosen);
  for (let i = 0; i < data.images; i++) if (behind(i)) order[at++] = i;
  for (let i = 0; i < data.images; i++) if (!behind(i)) order[at++] = i;
  const style = getComputedStyle(document.documentElement);
  map.setTheme(pixel(style.getPropertyValue("--paper").trim()), style.getPropertyValue("--ink").trim());
  map.setColours(colours, order);
  legend(names, counts);
};

const legend = (names, counts) => {
  const present = names.map(([name, hex], i) => [name, hex, i]).filter(([, , i]) => counts[i] > 0).sort((a, b) => counts[b[2]] - counts[a[2]]);
  const items = present.slice(0, LEGEND).map(([name, hex, i]) => {
    const dot = make("i");
    dot.style.background = hex;
    const button = make("button", { type: "button", "aria-pressed": chosen === i }, dot, `${name} (${number(counts[i])})`);
    button.addEventListener("click", () => {
      chosen = chosen === i ? null : i;
      paint();
      $("legend").querySelectorAll("button")[present.findIndex(([, , j]) => j === i)]?.focus();
    });
    return make("li", {}, button);
  });
  if (present.length > LEGEND) items.push(make("li", { className: "quiet" }, `and ${number(present.length - LEGEND)} more`));
  $("legend").replaceChildren(...items);
};

// ---- Pictures ------------------------------------------------------------------------------------------------------

const address = (path, side) => `/api/image?${query({ path, side })}`;
const picture = (path, side, alt = "") => {
  const image = make("img", { alt, loading: "lazy", decoding: "async", src: address(path, side) });
  image.addEventListener("error", () => image.replaceWith("no picture"), { once: true });
  return image;
};

// A button with a picture, which opens the details.
const tile = (path, lines) => {
  const texts = lines.filter(Boolean).map(([text, kind]) => make("span", { className: kind || "" }, text));
  const done = reviewed.has(path) ? make("span", { className: "done" }, `✓ ${reviewed.get(path)}`) : null;
  const button = make("button", { type: "button", className: "tile" }, make("span", { className: "thumb" }, picture(path, 192)), make("strong", {}, path), ...texts, done);
  button.addEventListener("click", () => open(path));
  return make("li", {}, button);
};
const likeness = (hit) => tile(hit.path, [[hit.label ?? "no label"], [hit.similarity === undefined ? `distance ${hit.distance.toFixed(3)}` : `similarity ${hit.similarity.toFixed(3)}`, "quiet"]]);

// ---- Map -----------------------------------------------------------------------------------------------------------

let hovered = -1, waiting;
const leave = () => {
  hovered = -1;
  clearTimeout(waiting);
  $("card").hidden = true;
};
const hover = (point, x, y) => {
  if (point === hovered) return;
  leave();
  hovered = point;
  if (point < 0) return;
  waiting = setTimeout(async () => {
    try {
      const { image } = await details({ row: point, version: data.version });
      if (hovered !== point) return;
      $("card").replaceChildren(picture(image.path, 96), make("span", {}, make("strong", {}, image.path), make("br"), image.label ?? "no label"));
      $("card").hidden = false;
      const { clientWidth, clientHeight } = $("frame");
      const { offsetWidth, offsetHeight } = $("card");
      $("card").style.left = `${Math.max(0, Math.min(x + 14, clientWidth - offsetWidth))}px`;
      $("card").style.top = `${y + 14 + offsetHeight > clientHeight ? Math.max(0, y - 14 - offsetHeight) : y + 14}px`;
    } catch {
      leave(); // a newer version is loaded soon
    }
  }, 120);
};
const map = new PointMap($("map"), { pick: (point) => open(null, point), hover, leave });

// ---- Details of an image -------------------------------------------------------------------------------------------

const details = (which) => ask(`/api/details?${query(which)}`);
let shown = null;

const open = async (path, row) => {
  leave();
  try {
    const answer = await details(path === null ? { row, version: data.version } : { path });
    shown = answer.image;
    fill(answer);
    if (!$("details").open) $("details").showModal();
    $("details").scrollTop = 0;
    if (answer.version === data.version) row === undefined ? map.show(shown.row) : map.select(row);
    const near = await ask(`/api/search?${query({ like: shown.path, n: 12 })}`);
    $("near").replaceChildren(...near.images.map(likeness));
  } catch (error) {
    complain(error);
  }
};

const fill = ({ image, reviewed: label }) => {
  $("path").textContent = image.path;
  $("picture").replaceChildren(picture(image.path, 640, `The image ${image.path}`));
  const findings = [image.suspect && "suspect label", image.outlier && "outlier", image.duplicate && "duplicate"].filter(Boolean);
  const rows = [
    ["Label", image.label ?? "none"],
    ["Split", image.split ?? "none"],
    ["Predicted", image.predicted === null ? "no classifier" : `${image.predicted}, ${percent(image.probability)}`],
    ["Probability of the label", image.label_probability === null ? "unknown" : percent(image.label_probability)],
    ["Findings", findings.join(", ") || "none"],
  ];
  $("facts").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  $("new-label").value = label ?? (image.suspect ? image.predicted : image.label) ?? "";
  $("accept").hidden = image.label === null;
  $("accept").textContent = `Accept ${image.label}`;
  $("undo").hidden = label === null;
  $("said").textContent = label === null ? "" : `Reviewed: ${label}`;
  $("near").replaceChildren();
};

const remember = (answer) => {
  reviewed.clear();
  for (const { path, label } of answer.rows) reviewed.set(path, label);
  count("review", answer.rows.length);
};

const review = async (label) => {
  const path = shown.path;
  try {
    const options = label === null
      ? ["DELETE", `/api/review?${query({ path })}`, {}]
      : ["POST", "/api/review", { headers: { "content-type": "application/json" }, body: JSON.stringify({ path, label }) }];
    remember(await ask(options[1], { method: options[0], ...options[2] }));
    $("undo").hidden = label === null;
    $("said").textContent = label === null ? "The review is undone." : `Saved in labels.csv: ${label}`;
    if (label !== null) $("new-label").value = label;
    refresh();
  } catch (error) {
    $("said").textContent = error.message;
  }
};

$("review").addEventListener("submit", (event) => {
  event.preventDefault();
  review($("new-label").value.trim());
});
$("accept").addEventListener("click", () => review(shown.label));
$("undo").addEventListener("click", () => review(null));
$("close").addEventListener("click", () => $("details").close());
$("details").addEventListener("click", (event) => event.target === $("details") && $("details").close());

// ---- Lists ---------------------------------------------------------------------------------------------------------

const duplicates = (group) => {
  const flags = [group.across_labels && "different labels", group.across_splits && "different splits"].filter(Boolean);
  const same = group.same_bytes ? "the same bytes" : `at most ${group.distance.toFixed(3)} apart`;
  const head = make("p", {}, `${number(group.paths.length)} images, ${same}`, flags.length ? make("span", { className: "flag" }, ` ${flags.join(", ")}`) : null);
  const tiles = group.paths.slice(0, 12).map((path, i) => tile(path, [[group.labels[i] ?? "no label"], [group.splits[i], "quiet"], [group.copies[i] ? "same bytes" : `distance ${group.distances[i].toFixed(3)}`, "quiet"]].filter(([text]) => text)));
  const rest = group.paths.length > 12 ? make("p", { className: "quiet" }, `and ${number(group.paths.length - 12)} more`) : null;
  return make("div", { className: "group" }, head, make("ul", { className: "tiles" }, ...tiles), rest);
};

const LISTS = {
  images: {
    one: "image", many: "images", path: "/api/images", empty: "No image has this label and such a path.",
    options: () => ({ text: $("text").value, label: $("label").value }),
    row: (image) => tile(image.path, [[image.label ?? "no label"], [image.split, "quiet"], image.suspect && ["suspect", "flag"]].filter((line) => line && line[0])),
  },
  suspects: {
    one: "suspect", many: "suspects", path: "/api/suspects", csv: "/api/suspects.csv", empty: "No label looks wrong.",
    row: (image) => tile(image.path, [[`label ${image.label}, ${percent(image.label_probability ?? 0)}`, "flag"], [`predicted ${image.predicted}, ${percent(image.probability)}`]]),
  },
  duplicates: {
    one: "group", many: "groups", path: "/api/duplicates", csv: "/api/duplicates.csv", empty: "No image is there twice.", box: "div", tiles: "",
    options: () => ({ across: across.value }),
    row: duplicates,
  },
  outliers: {
    one: "outlier", many: "outliers", path: "/api/outliers", csv: "/api/outliers.csv", empty: "No image is unlike the others.",
    row: (image) => tile(image.path, [[image.label ?? "no label"], [`distance ${image.distance.toFixed(2)}`, "quiet"]]),
  },
  rejects: {
    one: "reject", many: "rejects", path: "/api/rejects", csv: "/api/rejects.csv", empty: "Every image has features.", tiles: "list",
    row: (reject) => make("li", {}, make("strong", {}, reject.path), make("span", {}, `${reject.reason}: `, make("span", { className: "quiet" }, reject.detail))),
  },
};

const across = make("select", { id: "across", "aria-label": "Which groups" }, ...[["any", "all groups"], ["labels", "different labels"], ["splits", "different splits"]].map(([value, text]) => make("option", { value }, text)));
across.addEventListener("change", () => fillList("duplicates"));

let asked = 0;
const fillList = async (name) => {
  const list = LISTS[name];
  const turn = ++asked;
  try {
    const part = (offset) => ask(`${list.path}?${query({ ...list.options?.(), offset, limit: PAGE })}`);
    const first = await part(0);
    if (turn !== asked) return;
    if (first.version !== data.version) return look();
    const total = make("span", { role: "status" }, `${number(first.total)} ${first.total === 1 ? list.one : list.many}`);
    const line = make("div", { className: "line" }, total);
    if (list.csv) line.append(make("a", { href: list.csv, download: "" }, "Download CSV"));
    if (name === "duplicates") line.append(across);
    const rows = make(list.box ?? "ul", { className: list.tiles ?? "tiles" }, ...first.rows.map(list.row));
    const nothing = first.total === 0 ? make("p", {}, first.note ?? list.empty) : null;
    const limits = first.total > 0 && first.note ? make("p", { className: "quiet" }, first.note) : null;
    $(`panel-${name}`).replaceChildren(line, ...[limits, nothing].filter(Boolean), ...(first.total > 0 ? [rows] : []));
    let seen = first.rows.length;
    if (seen >= first.total) return;
    const more = make("button", { type: "button", className: "more" }, "Show more");
    more.addEventListener("click", async () => {
      try {
        const next = await part(seen);
        seen += next.rows.length;
        rows.append(...next.rows.map(list.row));
        if (seen >= next.total || next.rows.length === 0) more.remove();
      } catch (error) {
        complain(error);
      }
    });
    $(`panel-${name}`).append(more);
  } catch (error) {
    complain(error);
  }
};

const fillReview = async () => {
  try {
    const answer = await ask("/api/review");
    remember(answer);
    const line = make("div", { className: "line" }, make("span", { role: "status" }, `${number(answer.rows.length)} ${answer.rows.length === 1 ? "label" : "labels"} reviewed`), make("a", { href: "/api/labels.csv", download: "" }, "Download labels.csv"));
    const how = make("p", {}, "The next run uses them with ", make("code", {}, answer.command));
    const rows = answer.rows.map(({ path, label }) => {
      const button = make("button", { type: "button" }, "Open");
      button.setAttribute("aria-label", `Open ${path}`);
      button.addEventListener("click", () => open(path));
      return make("li", {}, make("span", {}, make("strong", {}, path), ` is ${label}`), button);
    });
    const none = make("p", {}, "Open an image and accept or correct its label. The labels are kept in labels.csv of the output.");
    $("panel-review").replaceChildren(line, ...(rows.length ? [how, make("ul", { className: "list" }, ...rows)] : [none]));
  } catch (error) {
    complain(error);
  }
};

// ---- Tabs ----------------------------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];
let active = "photo";
const titles = new Map(tabs.map((tab) => [tab.id.slice(4), tab.textContent]));
const count = (name, n) => {
  $(`tab-${name}`).textContent = `${titles.get(name)} (${number(n)})`;
};

const refresh = () => {
  if (active === "review") return fillReview();
  if (LISTS[active]) return fillList(active);
  return undefined;
};

const choose = (name) => {
  active = name;
  for (const tab of tabs) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !on;
  }
  return refresh();
};

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab.id.slice(4)));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    choose(next.id.slice(4));
  });
}

const counts = async () => {
  const lists = ["suspects", "duplicates", "outliers", "rejects"];
  const totals = await Promise.all(lists.map((name) => ask(`${LISTS[name].path}?limit=0`)));
  totals.forEach((answer, i) => count(lists[i], answer.total));
  remember(await ask("/api/review"));
};

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const at = data.labels.indexOf($("label").value);
  if ($("colour").value === "label") {
    chosen = at < 0 ? null : at;
    paint();
  }
  choose("images");
});
$("label").addEventListener("change", () => $("search").requestSubmit());

// ---- Photos --------------------------------------------------------------------------------------------------------

const likely = ({ label, probability }) => {
  const bar = make("span");
  bar.style.width = `${100 * probability}%`;
  return make("li", {}, make("span", {}, label), make("span", { className: "track", "aria-hidden": "true" }, bar), make("span", { className: "share" }, percent(probability)));
};

let preview;
const predict = async (file) => {
  choose("photo");
  $("alike").replaceChildren();
  $("answer").replaceChildren(make("p", {}, `Looking at ${file.name}…`));
  const options = { method: "POST", body: file, headers: { "content-type": file.type || "image/unknown" } };
  if (preview) URL.revokeObjectURL(preview);
  preview = URL.createObjectURL(file);
  const image = () => make("img", { alt: "Your photo", src: preview });
  try {
    const said = await ask("/api/predict?n=12", options);
    const unlike = said.problem === null ? null : make("p", { className: "problem" }, "Unlike anything seen: farther from all labels than 99.9 % of the training images.");
    const text = make("div", {}, make("p", { className: "big" }, said.label), make("p", {}, `with probability ${percent(said.probability)}`), unlike, make("ul", { className: "likely", "aria-label": "Most probable labels" }, ...said.likely.map(likely)));
    $("answer").replaceChildren(make("div", { className: "said" }, image(), text));
    $("alike").replaceChildren(...said.neighbours.map(likeness));
    map.setMark(said.place);
  } catch (error) {
    if (error.named !== "Classifier.Missing") return $("answer").replaceChildren(make("p", { className: "problem" }, error.message));
    try {
      const found = await ask("/api/search?n=12", options);
      $("answer").replaceChildren(make("div", { className: "said" }, image(), make("div", {}, make("p", {}, "The data set has no classifier. These images are alike."))));
      $("alike").replaceChildren(...found.images.map(likeness));
    } catch (second) {
      $("answer").replaceChildren(make("p", { className: "problem" }, second.message));
    }
  }
  return undefined;
};

$("file").addEventListener("change", () => $("file").files[0] && predict($("file").files[0]));
let entered = 0;
const dropping = (by) => {
  entered = Math.max(0, entered + by);
  $("dropping").hidden = entered === 0;
};
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => hasFiles(event) && dropping(1));
addEventListener("dragleave", (event) => hasFiles(event) && dropping(-1));
addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  dropping(-entered);
  if ($("details").open) $("details").close();
  if (event.dataTransfer.files[0]) predict(event.dataTransfer.files[0]);
});

// ---- Start ---------------------------------------------------------------------------------------------------------

$("colour").addEventListener("change", () => {
  chosen = null;
  paint();
});
$("in").addEventListener("click", () => map.zoom(1.5));
$("out").addEventListener("click", () => map.zoom(1 / 1.5));
$("fit").addEventListener("click", () => map.fit());
dark.addEventListener("change", paint);

// A newer version replaces what is shown, so that an erased image does not stay on the page.
let looking = false;
const look = async () => {
  if (looking) return;
  looking = true;
  try {
    const { version } = await ask("/api");
    if (version !== data.version) {
      leave();
      if ($("details").open) $("details").close();
      $("alike").replaceChildren();
      await load();
      await counts();
      await refresh();
      note(`Version ${version} is shown now.`);
    }
  } catch (error) {
    complain(error instanceof TypeError ? new Error("pomona serve does not answer; is it still running?") : error);
  } finally {
    looking = false;
  }
};

try {
  await load();
  await counts();
} catch (error) {
  $("about").textContent = "The data set could not be read.";
  complain(error);
}
setInterval(() => document.visibilityState === "visible" && look(), POLL);
window.pomona = { map, data };
