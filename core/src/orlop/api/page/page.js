"use strict";
// Fetches what it shows from /v1, anew whenever the event stream says that something happened. Everything is put
// in as text, never as markup: names come from users.

const TASKS_SHOWN_MAX = 500;
const EVENTS_SHOWN_MAX = 40;
const SETTLE_MS = 300;
const REFRESH_MS = 15000;

async function get(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  const document = await response.json();
  if (!response.ok) throw new Error(document.error || response.statusText);
  return document;
}

function bytes(amount) {
  for (const [unit, size] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
    if (Math.abs(amount) >= size) return `${+(amount / size).toFixed(1)} ${unit}`;
  return `${amount} B`;
}

const shown = (amount, unit) => (unit === "bytes" ? bytes(amount) : `${+amount.toFixed(2)}`);

function age(text) {
  if (!text) return "";
  const seconds = Math.max(0, (Date.now() - Date.parse(text)) / 1000);
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.floor(seconds)} s`;
}

function bar(used, total) {
  const full = total > 0 && used / total > 0.9 ? "full" : "";
  return make("progress", { max: total || 1, value: Math.min(Math.max(used, 0), total), class: full });
}

function card(label, value, ...more) {
  return make("div", { class: "card" }, make("small", {}, label), make("b", {}, value), ...more);
}

function showCluster(cluster) {
  $("name").textContent = cluster.name;
  document.title = `${cluster.name} · Orlop`;
  $("about").textContent = `Orlop ${cluster.version} · led by ${cluster.leader} · up ${age(cluster.started)} · ${cluster.store}`;
  $("alarm").hidden = !cluster.read_only;
  $("alarm").textContent = `Read-only: ${cluster.read_only}`;
  const nodes = Object.values(cluster.nodes).reduce((sum, count) => sum + count, 0);
  const cards = [
    card("nodes ready", `${cluster.nodes.ready || 0} of ${nodes}`),
    card("tasks running", `${cluster.tasks.running || 0}`),
    card("waiting for a place", `${cluster.waiting}`),
  ];
  for (const [name, label] of [["cpus", "CPU"], ["mem", "memory"], ["disk", "disk"]]) {
    if (!(name in cluster.resources.total)) continue;
    const total = cluster.resources.total[name];
    const used = cluster.resources.used[name];
    const unit = cluster.resources.units[name];
    const percent = total ? Math.round((100 * used) / total) : 0;
    cards.push(card(`${label} reserved`, `${percent} %`,
      make("small", {}, `${shown(used, unit)} of ${shown(total, unit)}`), bar(used, total)));
  }
  if (cluster.orphans.length) cards.push(card("orphans", `${cluster.orphans.length}`));
  $("summary").replaceChildren(...cards);
  $("frameworks").replaceChildren(...cluster.frameworks.map((framework) => {
    const running = framework.state === "running";
    const count = framework.tasks.running || 0;
    const text = `${framework.name} · ${running ? `${count} running` : framework.state}`;
    return make("span", { class: "chip", title: framework.error }, state(text, running ? "good" : "bad"));
  }));
  if (!cluster.frameworks.length) $("frameworks").append(make("span", { class: "quiet" }, "none is installed"));
}

function resource(node, name) {
  const found = node.resources[name];
  if (!found) return make("td");
  return make("td", {}, bar(found.used, found.total),
    make("small", {}, `${shown(found.used, found.unit)} / ${shown(found.total, found.unit)}`));
}

function showNodes(nodes) {
  $("node-count").textContent = nodes.length;
  $("nodes").replaceChildren(...nodes.map((node) => {
    const mood = node.state === "ready" ? (node.drained ? "warn" : "good") : "bad";
    const attributes = Object.entries(node.attributes).map(([name, value]) => `${name}=${value}`).join(" ");
    return make("tr", {},
      make("td", { title: node.id }, node.name),
      make("td", {}, state(node.drained ? `${node.state}, drained` : node.state, mood)),
      make("td", {}, node.address), make("td", {}, `${node.tasks}`),
      resource(node, "cpus"), resource(node, "mem"), resource(node, "disk"),
      make("td", { class: "wide quiet", title: attributes }, attributes));
  }));
  if (!nodes.length) $("nodes").append(make("tr", {}, make("td", { class: "empty", colspan: "8" }, "No node has joined yet.")));
}

function mood(task) {
  if (task.unreachable || ["failed", "lost", "error"].includes(task.outcome)) return "bad";
  if (task.state === "running" || task.outcome === "finished") return "good";
  return task.live ? "warn" : "";
}

function taskRow(task) {
  const health = task.healthy === null ? "" : state(task.healthy ? "healthy" : "failing", task.healthy ? "good" : "bad");
  const note = [task.unreachable ? "node unreachable" : "", task.reason, task.message].filter(Boolean).join(" · ");
  const row = make("tr", { tabindex: "0", role: "button", "data-id": task.id },
    make("td", { class: "wide", title: task.id }, task.name), make("td", {}, task.framework),
    make("td", {}, state(task.outcome || task.state, mood(task))), make("td", {}, health),
    make("td", {}, task.node_name || ""), make("td", {}, task.ports.join(", ")),
    make("td", { title: task.created }, age(task.started || task.created)),
    make("td", { class: "wide quiet", title: note }, note));
  row.addEventListener("click", () => tell(task.id));
  row.addEventListener("keydown", (event) => { if (event.key === "Enter") tell(task.id); });
  return row;
}

let tasks = [];
let total = 0;

function showTasks() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = tasks.filter((task) => {
    const text = [task.name, task.group, task.framework, task.state, task.outcome, task.node_name, task.role, task.id].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const part = total > tasks.length ? `, the first ${tasks.length} here` : "";
  $("task-count").textContent = words.length ? `${found.length} of ${total}${part}` : `${total}${part}`;
  const focused = document.activeElement?.dataset?.id;
  $("tasks").replaceChildren(...found.map(taskRow));
  if (focused) $("tasks").querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  if (!found.length) $("tasks").append(make("tr", {}, make("td", { class: "empty", colspan: "8" }, "No tasks.")));
}

function entry(event) {
  const details = Object.entries(event.details).filter(([, value]) => value).map(([name, value]) => `${name}: ${value}`);
  const text = [details.join(" · ") || event.subject, event.cause ? `(${event.cause})` : ""].join(" ");
  const time = new Date(event.at).toLocaleTimeString([], { hour12: false });
  return make("li", {}, make("time", { datetime: event.at || "", title: event.at || "" }, time),
    make("span", {}, event.type), make("span", {}, text));
}

async function tell(id) {
  try {
    const told = await get(`/v1/explain/${encodeURIComponent(id)}`);
    $("story-title").textContent = told.task.name;
    $("story-why").textContent = told.explanation.text;
    $("story-filters").replaceChildren(...told.explanation.ruled_out.map((row) => make("tr", {},
      make("td", {}, row.filter), make("td", {}, row.reason), make("td", {}, row.nodes === 1 ? "1 node" : `${row.nodes} nodes`))));
    $("story-events").replaceChildren(...told.story.map(entry));
    if (!told.story.length) $("story-events").append(make("li", { class: "quiet" }, "Nothing yet."));
    $("story-spec").textContent = JSON.stringify(told.specification, null, 2);
    if (!$("story").open) $("story").showModal();
  } catch (error) {
    link("lost", error.message);
  }
}

function link(kind, text) {
  $("link").className = kind;
  $("link").textContent = text;
}

let refreshing = false;
let again = false;

async function refresh() {
  if (refreshing) { again = true; return; }
  refreshing = true;
  try {
    const all = $("ended").checked ? "&all=true" : "";
    const [cluster, nodes, listed] = await Promise.all(
      [get("/v1/cluster"), get("/v1/nodes"), get(`/v1/tasks?limit=${TASKS_SHOWN_MAX}${all}`)]);
    showCluster(cluster);
    showNodes(nodes.nodes);
    tasks = listed.tasks;
    total = listed.total;
    showTasks();
  } catch (error) {
    link("lost", error.message);
  } finally {
    refreshing = false;
    if (again) { again = false; soon(); }
  }
}

let timer = null;
function soon() {
  if (timer === null) timer = setTimeout(() => { timer = null; refresh(); }, SETTLE_MS);
}

async function follow() {
  const known = await get(`/v1/events?limit=${EVENTS_SHOWN_MAX}`);
  $("events").replaceChildren(...known.events.reverse().map(entry));
  const source = new EventSource(`/v1/events${known.next ? `?after=${known.next}` : ""}`);
  source.onopen = () => { link("live", "live"); soon(); };
  source.onerror = () => {
    link("lost", "connection lost, trying again");
    // After an answer that is no stream a browser gives up.
    if (source.readyState === EventSource.CLOSED) setTimeout(start, 5000);
  };
  source.addEventListener("gap", soon);
  source.onmessage = (message) => {
    $("events").prepend(entry(JSON.parse(message.data)));
    while ($("events").children.length > EVENTS_SHOWN_MAX) $("events").lastChild.remove();
    soon();
  };
}

function start() {
  follow().catch((error) => { link("lost", error.message); setTimeout(start, 5000); });
}

$("filter").addEventListener("input", showTasks);
$("ended").addEventListener("change", refresh);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== $("filter") && !$("story").open) {
    event.preventDefault();
    $("filter").focus();
  }
});
setInterval(soon, REFRESH_MS);
refresh();
start();
