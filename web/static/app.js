// What a page cannot do with HTML alone. Every page works without this file, only less comfortably.
"use strict";

(() => {
  // --- The board refreshes itself without taking anything out of somebody's hands: nodes stay, only what differs changes.
  // An opened <details>, the focus, a selection and the scroll position survive because their nodes do.

  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE && node.id ? node.id : null);

  function morphAttributes(from, to) {
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    for (const { name } of [...from.attributes]) {
      // Whether it is open belongs to the reader, not to the server.
      if (!to.hasAttribute(name) && !(name === "open" && from.localName === "details") && name !== "class") {
        from.removeAttribute(name);
      }
    }
    if (from.localName === "input" && from.type === "hidden") from.value = to.value;
  }

  function morph(from, to) {
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || keyOf(from) !== keyOf(to)) {
      const fresh = document.importNode(to, true);
      from.replaceWith(fresh);
      return fresh;
    }
    if (from.nodeType === Node.ELEMENT_NODE) {
      morphAttributes(from, to);
      morphChildren(from, to);
    } else if (from.nodeValue !== to.nodeValue) {
      from.nodeValue = to.nodeValue;
    }
    return from;
  }

  function morphChildren(from, to) {
    const keyed = new Map([...from.children].filter((child) => child.id).map((child) => [child.id, child]));
    const kept = new Set([...to.children].map(keyOf).filter(Boolean));
    let place = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      const key = keyOf(wanted);
      while (place && keyOf(place) && !kept.has(keyOf(place))) {
        const gone = place;
        place = place.nextSibling;
        gone.remove();
      }
      if (key && keyed.has(key)) {
        const known = keyed.get(key);
        if (known !== place) from.insertBefore(known, place);
        else place = place.nextSibling;
        const before = known.dataset.count;
        morph(known, wanted);
        if (before !== undefined && before !== known.dataset.count) mark(known, "is-again");
      } else if (!key && place && !keyOf(place)) {
        const next = place.nextSibling;
        morph(place, wanted);
        place = next;
      } else {
        const fresh = document.importNode(wanted, true);
        from.insertBefore(fresh, place);
        if (key && fresh.classList.contains("card")) mark(fresh, "is-new");
      }
    }
    while (place) {
      const gone = place;
      place = place.nextSibling;
      gone.remove();
    }
  }

  function mark(card, name) {
    card.classList.remove("is-new", "is-again");
    card.classList.add(name);
    setTimeout(() => card.classList.remove(name), 6000);
  }

  window.htmx?.defineExtension("morph", {
    isInlineSwap: (style) => style === "morph",
    handleSwap: (style, target, fragment) => {
      if (style !== "morph") return false;
      morphChildren(target, fragment);
      return [];
    },
  });

  // --- Say it when the board cannot be refreshed.

  const trouble = document.getElementById("trouble");
  let failures = 0;

  function tell(what) {
    if (!trouble) return;
    for (const line of trouble.querySelectorAll("[data-trouble]")) line.hidden = line.dataset.trouble !== what;
    trouble.hidden = !what;
    document.getElementById("board")?.classList.toggle("is-stale", Boolean(what));
  }

  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.elt.id !== "board") return;
    const status = event.detail.xhr.status;
    if (status >= 200 && status < 300) {
      failures = 0;
      tell(null);
      return;
    }
    // One lost answer is no news.
    failures += 1;
    if (status === 401) tell("signed-out");
    else if (failures >= 2) tell(status ? "failing" : "offline");
  });

  // --- An address says only what was asked: empty filters stay out of it.

  document.addEventListener("htmx:configRequest", (event) => {
    if (event.detail.elt.id !== "ask") return;
    const parameters = event.detail.parameters;
    for (const key of Object.keys(parameters)) if (parameters[key] === "") delete parameters[key];
  });

  // --- "Use this fix" fills the form in place.

  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-use-fix]");
    const form = document.querySelector("[data-close-form]");
    if (!link || !form || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    form.elements.root_cause.value = link.dataset.cause;
    form.elements.resolution.value = link.dataset.fix;
    const hint = document.querySelector("[data-close-hint]");
    if (hint) hint.textContent = form.dataset.takenWords.replace("{id}", link.dataset.from);
    document.getElementById("close").scrollIntoView({ block: "start" });
    form.elements.resolution.focus({ preventScroll: true });
  });

  // --- A menu closes when one looks elsewhere.

  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });

  // --- Keyboard.

  const shortcuts = document.getElementById("shortcuts");
  const opener = document.querySelector("[data-open-shortcuts]");
  if (opener && shortcuts) {
    opener.hidden = false;
    opener.addEventListener("click", () => shortcuts.showModal());
  }

  const typing = (node) => node.closest("input, textarea, select, [contenteditable]") !== null;
  const pages = { b: "/", h: "/history", r: "/report" };
  let leader = 0;

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) {
        menu.open = false;
        menu.querySelector("summary").focus();
      }
      return;
    }
    if (typing(event.target) || shortcuts?.open) return;
    // On a Thai layout these keys type Thai letters: there the key's place counts.
    const place = /^[\u0e00-\u0e7f]$/.test(event.key) && event.code === "Slash";
    const slash = event.key === "/" || (place && !event.shiftKey);
    const question = event.key === "?" || (place && event.shiftKey);
    if (slash) {
      event.preventDefault();
      const box = document.getElementById("q") || document.getElementById("ask-here");
      if (box) {
        box.focus();
        box.select();
      } else location.href = "/search";
    } else if (question && shortcuts) {
      event.preventDefault();
      shortcuts.showModal();
    } else if (event.code === "KeyG") {
      leader = Date.now();
    } else if (Date.now() - leader < 1500) {
      const page = pages[event.code.replace("Key", "").toLowerCase()];
      leader = 0;
      if (page) location.href = page;
    }
  });
})();
