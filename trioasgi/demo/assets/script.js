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

function say(state, text, id = "live") {
  const live = byId(id);
  if (live.dataset.state === state && byId(`${id}-text`).textContent === text) return; // announced once
  live.dataset.state = state;
  show(`${id}-text`, text);
}

function remember(values, value) {
  values.push(value);
  if (values.length > POINTS) values.shift();
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
  remember(history, tick.late);
  graph("graph", history);
}

function graph(id, values) {
  const top = Math.max(1, ...values) * 1.15;
  const step = 600 / (POINTS - 1);
  const first = 600 - step * (values.length - 1);
  const points = values.map((value, i) => `${(first + i * step).toFixed(1)},${(78 - (value / top) * 74).toFixed(1)}`);
  byId(`${id}-line`).setAttribute("points", points.join(" "));
  byId(`${id}-area`).setAttribute("points", [`${first.toFixed(1)},80`, ...points, "600,80"].join(" "));
  show(`${id}-top`, `${top.toFixed(2)} ms`);
}

// ---- the WebSocket ---------------------------------------------------------------------------------------

const trips = [];
let socket = null;
let heartbeat = null;
let retry = null;
let messages = 0;
let waiting = []; // messages on their way, oldest first: they come back in order

function openSocket() {
  clearTimeout(retry);
  const address = new URL(`${document.body.dataset.prefix}/ws`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  say("waiting", "connecting", "ws");
  const opening = socket = new WebSocket(address);
  waiting = [];
  opening.addEventListener("open", () => {
    say("open", opening.extensions ? "open, compressed" : "open", "ws");
    usable(true);
    heartbeat = setInterval(() => pass("tick"), 1000);
    pass("tick");
  });
  opening.addEventListener("message", () => {
    messages += 1;
    const message = waiting.shift();
    message?.arrived(performance.now() - message.sent);
    show("w-count", messages.toLocaleString("en"));
  });
  opening.addEventListener("close", (event) => {
    if (socket !== opening) return;
    clearInterval(heartbeat);
    usable(false);
    say("lost", `closed, ${event.code}${event.reason ? `: ${event.reason}` : ""}`, "ws");
    if (event.code !== 1000) retry = setTimeout(openSocket, RETRY_MS);
  });
}

function usable(open) {
  byId("ws-send").disabled = byId("ws-burst").disabled = !open;
  show("ws-close", open ? "Close" : "Open again");
}

function pass(text, arrived = measure) {
  waiting.push({ sent: performance.now(), arrived });
  socket.send(text);
}

function measure(milliseconds) {
  remember(trips, milliseconds);
  const sorted = trips.slice().sort((a, b) => a - b);
  show("w-last", `${milliseconds.toFixed(2)} ms`);
  show("w-median", `${sorted[sorted.length >> 1].toFixed(2)} ms`);
  show("w-best", `${sorted[0].toFixed(2)} ms`);
  graph("ws-graph", trips);
}

function sendOne() {
  const text = byId("ws-input").value;
  pass(text, (milliseconds) => show("ws-output", `${text}\n${milliseconds.toFixed(2)} ms there and back`));
}

function sendMany() {
  const start = performance.now();
  let left = 1000;
  const count = () => {
    left -= 1;
    if (left) return;
    const milliseconds = performance.now() - start;
    show("ws-output", `1,000 messages back in ${milliseconds.toFixed(1)} ms`);
  };
  for (let i = 0; i < 1000; i += 1) pass(`message ${i}`, count);
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
  byId("ws-send").addEventListener("click", sendOne);
  byId("ws-burst").addEventListener("click", sendMany);
  byId("ws-input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !byId("ws-send").disabled) sendOne();
  });
  byId("ws-close").addEventListener("click", () => (socket.readyState === WebSocket.OPEN ? socket.close(1000, "by you") : openSocket()));
  openSocket();
  // A tab nobody looks at needs no stream.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  connect();
});
