// What a page can do beyond links and forms: keys, exact times, light and dark.
"use strict";

// Times: the exact one in the viewer's zone on hover, and an age that goes on.
function age(ms) {
  const s = Math.floor(Math.abs(ms) / 1000);
  let text;
  if (s < 1) return "now";
  if (s < 60) text = s + " s";
  else if (s < 3600) text = Math.floor(s / 60) + " min";
  else if (s < 48 * 3600) text = Math.floor(s / 3600) + " h";
  else text = Math.floor(s / 86400) + " days";
  return text + (ms < 0 ? " from now" : " ago");
}

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    if (!time.dataset.utc) {
      time.dataset.utc = time.title;
      time.title = at.toLocaleString(undefined, {dateStyle: "full", timeStyle: "long"}) + "\n" + time.dataset.utc;
    }
    const text = age(Date.now() - at);
    if (time.textContent !== text) time.textContent = text;
  }
}
showTimes(document);
setInterval(() => { if (!document.hidden) showTimes(document); }, 5000);

// Light and dark.
const themeButton = document.getElementById("theme");
if (themeButton) {
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("soniq-theme", root.dataset.theme); } catch { /* for this page alone */ }
  });
}

// Keys. The current row is marked and has the focus, so that Enter opens it.
let current = null;
function rows() { return Array.from(document.querySelectorAll("[data-row]")); }
function mark(row) {
  if (current) current.classList.remove("current");
  current = row;
  if (!row) return;
  row.classList.add("current");
  row.querySelector("[data-open]")?.focus({preventScroll: true});
  row.scrollIntoView({block: "nearest"});
}
function move(step) {
  const all = rows();
  if (!all.length) return;
  const at = current ? all.indexOf(current) : -1;
  mark(all[Math.min(Math.max(at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step, 0), all.length - 1)]);
}
document.addEventListener("focusin", (e) => {
  const row = e.target.closest?.("[data-row]");
  if (row && row !== current) {
    if (current) current.classList.remove("current");
    current = row;
    row.classList.add("current");
  }
});
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const inField = e.target.matches("input:not([type=checkbox]), select, textarea");
  if (e.key === "Escape" && inField) { e.target.blur(); return; }
  if (inField || document.querySelector("dialog[open]")) return;
  switch (e.key) {
    case "/": {
      const field = document.querySelector("[data-slash]");
      if (!field) return;
      field.focus();
      field.select();
      break;
    }
    case "j": move(1); break;
    case "k": move(-1); break;
    case "x": {
      const box = current?.querySelector("input[type=checkbox]");
      if (!box) return;
      box.click();
      break;
    }
    case "?": document.getElementById("keys")?.showModal(); break;
    default: return;
  }
  e.preventDefault();
});

// Live. The server says that something is new; the page then reads itself again, and takes
// over the parts that are marked. Nothing moves under a pointer, a focus or a selection: then
// a button says how much is new.
const part = document.querySelector("[data-live]");
const liveState = document.getElementById("live");
const live = {source: null, last: "", greeted: false, heard: Date.now(), tried: 0, waiting: 0, maybe: false, busy: false, again: false, failing: false, since: 0};

function exact(ms) { return new Date(ms).toLocaleTimeString(); }

function say() {
  if (!part || !liveState) return;
  // The browser says that the connection is gone, or nothing comes: two and a half heartbeats.
  const cut = live.source?.readyState !== EventSource.OPEN || Date.now() - live.heard > 25000;
  let text = "Live", off = false;
  if (live.off) { text = "Not live: reload to see what is new"; off = true; }
  else if (cut) { text = "Not live since " + exact(live.heard) + ", trying to reconnect"; off = true; }
  else if (live.failing) { text = "The database does not answer; this is as of " + exact(live.since); off = true; }
  if (liveState.textContent !== text) {
    liveState.textContent = text;
    liveState.classList.toggle("off", off);
    liveState.classList.toggle("on", !off);
  }
}

// settled reports whether the rows may change now.
function settled() {
  return !part.querySelector("input:checked") && !document.querySelector("dialog[open]") &&
    !part.matches(":hover") && !part.contains(document.activeElement) && !document.hidden;
}

function announce() {
  const button = document.getElementById("news");
  if (!button) return;
  button.hidden = live.waiting === 0;
  button.textContent = (live.maybe ? "About " : "") + live.waiting.toLocaleString("en") + " new: show";
  document.title = (live.waiting ? "(" + live.waiting + ") " : "") + document.title.replace(/^\(\d+\) /, "");
}

// boxes are the ticks of the rows, and the one for all of them.
function boxes(which = "") { return Array.from(part.querySelectorAll("input[type=checkbox]" + which)); }

async function refresh() {
  if (live.busy) { live.again = true; return; }
  live.busy = true;
  const taken = live.waiting;
  try {
    const response = await fetch(location.href, {headers: {"Accept": "text/html"}, redirect: "error"});
    if (!response.ok) throw new Error(response.status);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const known = new Set(rows().map((row) => row.dataset.id));
    const focused = current?.dataset.id;
    const ticked = new Set(boxes(":checked").map((box) => box.name + " " + box.value));
    for (const old of document.querySelectorAll("[data-part]")) {
      const next = fresh.querySelector('[data-part="' + old.dataset.part + '"]');
      if (next) old.replaceChildren(...next.childNodes);
    }
    for (const box of boxes()) box.checked = ticked.has(box.name + " " + box.value);
    current = null;
    for (const row of rows()) {
      if (known.size && row.dataset.id && !known.has(row.dataset.id)) row.classList.add("new-row");
      if (focused && row.dataset.id === focused) { current = row; row.classList.add("current"); }
    }
    showTimes(document);
    live.waiting -= taken;
    if (live.waiting <= 0) { live.waiting = 0; live.maybe = false; }
    live.failing = false;
  } catch {
    // The next message, or the button, tries again.
  }
  announce();
  setTimeout(() => {
    live.busy = false;
    if (live.again) { live.again = false; arrived(); }
  }, 1000);
}

function arrived() {
  announce();
  if (live.waiting > 0 && settled()) refresh();
}

function hear(e) {
  live.greeted = true;
  live.heard = Date.now();
  live.last = e.lastEventId;
  const m = JSON.parse(e.data);
  if (m.failing && !live.failing) live.since = Date.now();
  live.failing = Boolean(m.failing);
  if (m.missed) { live.waiting = Math.max(live.waiting, 1); live.maybe = true; }
  if (m.new) live.waiting += m.new;
  if (m.maybe) live.maybe = true;
  if (m.new || m.missed) arrived();
  say();
}

function connect() {
  if (live.source || live.off || document.hidden) return;
  const url = new URL(part.dataset.live, location.href);
  if (live.last) url.searchParams.set("last", live.last);
  const source = new EventSource(url);
  live.source = source;
  live.tried = Date.now();
  for (const name of ["hello", "new", "beat"]) source.addEventListener(name, hear);
  source.onerror = () => {
    // The browser gives up after an answer that isn't a stream.
    if (source.readyState === EventSource.CLOSED) {
      live.source = null;
      if (!live.greeted) live.off = true;
      else setTimeout(connect, 3000);
    }
    say();
  };
}

if (part) {
  live.since = Date.now();
  connect();
  setInterval(() => {
    // A new connection has as long as the one before.
    if (live.source && Date.now() - Math.max(live.heard, live.tried) > 25000) {
      live.source.close();
      live.source = null;
      connect();
    }
    say();
  }, 2000);
  // A page that nobody sees needs no connection: a browser has few for each site.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      live.source?.close();
      live.source = null;
    } else {
      connect();
      arrived();
    }
  });
  part.addEventListener("pointerleave", arrived);
  part.addEventListener("focusout", () => setTimeout(arrived, 0));
  document.getElementById("news")?.addEventListener("click", () => { refresh(); });
}

// A page of work that goes on reads itself again until that has ended.
async function poll() {
  try {
    const response = await fetch(location.href, {redirect: "error"});
    if (response.ok) {
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      const old = document.querySelector("[data-poll]"), next = fresh.querySelector('[data-part="run"]');
      if (old && next) {
        if (!old.contains(document.activeElement) || !next.hasAttribute("data-poll")) old.replaceChildren(...next.childNodes);
        if (!next.hasAttribute("data-poll")) old.removeAttribute("data-poll");
        showTimes(old);
      }
    }
  } catch { /* tried again */ }
  if (document.querySelector("[data-poll]")) setTimeout(poll, 1000);
}
if (document.querySelector("[data-poll]")) setTimeout(poll, 500);
