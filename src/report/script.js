"use strict";
(() => {
  const card = document.getElementById("card");
  const [picture, path, label] = [".pic", ".path", ".label"].map((name) => card.querySelector(name));

  const show = (point) => {
    picture.style.display = point.dataset.picture ? "" : "none";
    picture.style.backgroundPosition = point.dataset.picture;
    path.textContent = point.dataset.path;
    label.textContent = point.dataset.name;
    card.hidden = false;
    const at = point.getBoundingClientRect(), size = card.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.right + 8), innerWidth - size.width - 8);
    const above = at.top - size.height - 8;
    card.style.left = `${Math.max(8, left)}px`;
    card.style.top = `${above > 8 ? above : at.bottom + 8}px`;
  };
  const hide = () => { card.hidden = true; };

  for (const plot of document.querySelectorAll(".scatter")) {
    plot.addEventListener("pointerover", (event) => {
      if (event.target.classList.contains("point")) show(event.target); else hide();
    });
    plot.addEventListener("pointerleave", hide);
  }
  addEventListener("scroll", hide, { passive: true });

  const boxes = [...document.querySelectorAll(".filter input")];
  const filter = () => {
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.dataset.label));
    for (const point of document.querySelectorAll(".point")) {
      point.classList.toggle("off", off.has(point.dataset.label));
    }
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
})();
