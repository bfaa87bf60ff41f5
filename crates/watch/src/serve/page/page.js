// The page is whole without this. With it, what has changed is taken over every two seconds, and keys and buttons work.
"use strict";
const EVERY = 2000;
let paused = false;
const said = (text) => { document.getElementById("said").textContent = text; };

// Makes `here` as `there` is, and touches only what differs: focus, selection and what is open stay.
function same(here, there) {
  if (here.nodeType !== there.nodeType || here.nodeName !== there.nodeName || (here.id || "") !== (there.id || "")) {
    here.replaceWith(there.cloneNode(true));
    return;
  }
  if (here.nodeType !== Node.ELEMENT_NODE) {
    if (here.nodeValue !== there.nodeValue) here.nodeValue = there.nodeValue;
    return;
  }
  for (const { name, value } of there.attributes) {
    if (name !== "open" && name !== "hidden" && here.getAttribute(name) !== value) here.setAttribute(name, value);
  }
  for (const name of here.getAttributeNames()) {
    if (name !== "open" && name !== "hidden" && !there.hasAttribute(name)) here.removeAttribute(name);
  }
  const theirs = [...there.childNodes];
  theirs.forEach((child, n) => {
    if (child.id && here.childNodes[n]?.id !== child.id) {
      const own = [...here.children].find((one) => one.id === child.id);
      if (own) here.insertBefore(own, here.childNodes[n] || null);
    }
    if (n < here.childNodes.length) same(here.childNodes[n], child);
    else here.append(child.cloneNode(true));
  });
  while (here.childNodes.length > theirs.length) here.lastChild.remove();
}

async function refresh() {
  if (paused || document.hidden) return;
  try {
    const answer = await fetch("/live", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = page.getElementById("main");
    if (main && !paused) same(document.getElementById("main"), main);
    document.body.classList.remove("lost");
    dress();
  } catch {
    if (!document.body.classList.contains("lost")) said("thruway does not answer; the last values are shown");
    document.body.classList.add("lost");
  }
}

// What needs a script is shown where there is one; times are the reader's own.
function dress() {
  document.querySelectorAll("[data-copy][hidden]").forEach((button) => { button.hidden = false; });
  const time = document.getElementById("time");
  const seen = time && new Date(Number(time.dataset.time) * 1000);
  if (seen && !Number.isNaN(seen.getTime())) time.title = seen.toLocaleString();
}

async function copy(button) {
  const from = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(from.textContent);
    said("copied");
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } catch {
    // without a secure context the clipboard is closed to pages: it is marked, for the reader's own keys
    const range = document.createRange();
    range.selectNodeContents(from);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    said("selected: copy it with your keyboard");
  }
}

function pause() {
  paused = !paused;
  document.getElementById("pause").setAttribute("aria-pressed", String(paused));
  said(paused ? "paused" : "goes on");
  refresh();
}

function go(id) {
  const heading = document.getElementById(id);
  if (!heading) return;
  heading.tabIndex = -1;
  heading.focus();
  heading.scrollIntoView();
}

function finding(step) {
  const all = [...document.querySelectorAll("#findings summary")];
  if (!all.length) return;
  const at = all.findIndex((one) => one.parentElement.contains(document.activeElement));
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + step, 0), all.length - 1);
  all[next].focus();
}

const KEYS = {
  w: () => go("way-title"), c: () => go("cards-title"), f: () => go("findings-title"), p: pause,
  j: () => finding(1), k: () => finding(-1),
  y: () => {
    const near = document.activeElement.closest("details") || document;
    const button = near.querySelector("[data-copy]");
    if (button) copy(button);
  },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const act = KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
  // a link to a finding opens it
  const link = event.target.closest("a[href^='#f-']");
  const found = link && document.getElementById(link.getAttribute("href").slice(1));
  if (found) found.open = true;
});
document.addEventListener("visibilitychange", refresh);
document.getElementById("pause").addEventListener("click", pause);
document.getElementById("keys").hidden = false;
dress();
setInterval(refresh, EVERY);
