"use strict";

// The chosen theme goes on before the first paint; without a choice the system's stands.
const root = document.documentElement;
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
} catch { /* storage may be forbidden; the system's theme will do */ }

function changeTheme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : darkSystem.matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* as above */ }
}

const byId = (id) => document.getElementById(id);
const show = (id, text) => { byId(id).textContent = text; };

function duration(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function size(bytes) {
  return bytes === null ? "not told" : `${(bytes / 1048576).toFixed(1)} MiB`;
}

// ---- the live stream -------------------------------------------------------------------------------------

const RETRY_MS = 1000;
const POINTS = 60;
const history = [];
let source = null;
let timer = null;

function say(state, text) {
  const live = byId("live");
  if (live.dataset.state === state && byId("live-text").textContent === text) return; // announced once
  live.dataset.state = state;
  show("live-text", text);
}

function connect() {
  clearTimeout(timer);
  source?.close();
  source = new EventSource(`${document.body.dataset.prefix}/stream`);
  source.addEventListener("tick", (event) => {
    say("open", "live");
    draw(JSON.parse(event.data));
  });
  // The server ends each stream after a while, so that none holds up its shutdown. It says so before, and the
  // next one follows at once; closing only at the end leaves the connection fit for that next one.
  let ended = false;
  source.addEventListener("bye", () => { ended = true; });
  source.addEventListener("error", () => {
    source.close();
    if (!ended) say("lost", "connection lost, trying again");
    timer = setTimeout(connect, ended ? 0 : RETRY_MS);
  });
}

function disconnect() {
  clearTimeout(timer);
  source?.close();
  say("waiting", "paused");
}

function draw(tick) {
  show("v-time", tick.time.slice(11, 19));
  show("v-uptime", duration(tick.uptime));
  show("v-streams", tick.streams);
  show("v-requests", tick.requests.toLocaleString("en"));
  show("v-tasks", tick.tasks);
  show("v-memory", size(tick.memory));
  show("v-process", tick.process);
  show("v-late", `${tick.late.toFixed(2)} ms`);
  history.push(tick.late);
  if (history.length > POINTS) history.shift();
  graph();
}

function graph() {
  const top = Math.max(1, ...history) * 1.15;
  const step = 600 / (POINTS - 1);
  const first = 600 - step * (history.length - 1);
  const points = history.map((late, i) => `${(first + i * step).toFixed(1)},${(78 - (late / top) * 74).toFixed(1)}`);
  byId("graph-line").setAttribute("points", points.join(" "));
  byId("graph-area").setAttribute("points", [`${first.toFixed(1)},80`, ...points, "600,80"].join(" "));
  show("graph-top", `${top.toFixed(2)} ms`);
}

// ---- the echo --------------------------------------------------------------------------------------------

async function echo(body, describe) {
  const buttons = [byId("echo-send"), byId("echo-big")];
  buttons.forEach((button) => { button.disabled = true; });
  const start = performance.now();
  try {
    const answer = await fetch(`${document.body.dataset.prefix}/echo`, { method: "POST", body });
    const content = await answer.blob();
    const milliseconds = performance.now() - start;
    show("echo-output", `${answer.status} · ${content.size.toLocaleString("en")} bytes back in ${milliseconds.toFixed(1)} ms${await describe(content)}`);
  } catch (error) {
    show("echo-output", `No answer: ${error.message}`);
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  byId("theme").addEventListener("click", changeTheme);
  if (!byId("live")) return; // an error page has nothing else
  byId("echo-send").addEventListener("click", () => echo(byId("echo-input").value, async (content) => `\n${await content.text()}`));
  byId("echo-big").addEventListener("click", () => echo(new Uint8Array(8 * 1048576), async () => ""));
  // A tab nobody looks at needs no stream.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  connect();
});
