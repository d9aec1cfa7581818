"use strict";
// Charts say their numbers in title elements, which browsers show late, and not at all where there is no mouse. This shows them
// at once. Nothing on the page needs it.
(function () {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);

  for (const title of document.querySelectorAll("svg g > title, svg rect > title, svg circle > title, svg text > title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }

  function show(event) {
    const of = event.target.closest && event.target.closest("[data-tip]");
    tip.hidden = !of;
    if (!of) {
      return;
    }
    tip.textContent = of.dataset.tip;
    const left = Math.min(event.pageX + 14, document.documentElement.clientWidth - tip.offsetWidth - 6);
    tip.style.left = Math.max(left, 6) + "px";
    tip.style.top = event.pageY + 18 + "px";
  }
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
}());
