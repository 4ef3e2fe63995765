"use strict";
// Shows what the API tells, anew every few seconds while somebody looks. Everything is put in as text, never as
// markup: names and reasons come from users.

const API = "v1/scheduler";
const REFRESH_MS = 3000;
const JOBS_SHOWN_MAX = 500;
const RUNS_SHOWN_MAX = 50;
const NEXT_SHOWN = 5;

let jobs = [];
let chosen = null;

async function call(method, path) {
  const response = await fetch(`${API}${path}`, { method, headers: { Accept: "application/json" } });
  const text = await response.text();
  if (!response.ok) {
    let message = response.statusText;
    try { message = JSON.parse(text).message || message; } catch { /* no JSON: the status has to do */ }
    throw new Error(message);
  }
  return text ? JSON.parse(text) : null;
}

const jobPath = (name) => `/job/${encodeURIComponent(name)}`;
const addedPath = (name, rest) => `/jobs/${encodeURIComponent(name)}${rest}`;
const local = (text) => (text ? new Date(text).toLocaleString() : "");

function took(start, end) {
  if (!start || !end) return "";
  const seconds = (Date.parse(end) - Date.parse(start)) / 1000;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

const MOODS = {
  success: "good", failure: "bad", fresh: "", idle: "", disabled: "warn",
  succeeded: "good", failed: "bad", killed: "warn", skipped: "warn", active: "good", waiting: "warn", queued: "warn",
};

const mood = (text) => MOODS[text] ?? (text.endsWith("running") ? "good" : "");
const shown = (text) => state(text, mood(text));

const stateOf = (job) => (job.disabled && job.state === "idle" ? "disabled" : job.state);
const after = (job) => (job.parents.length ? job.parents.join(", ") : job.schedule);

function row(job) {
  const element = make(
    "tr", { tabindex: "0" },
    make("td", {}, job.name), make("td", {}, shown(job.status)), make("td", {}, shown(stateOf(job))),
    make("td", { class: "wide", title: after(job) }, after(job)),
  );
  const open = () => openJob(job.name);
  element.addEventListener("click", open);
  element.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
  return element;
}

function showJobs() {
  const wanted = $("filter").value.toLowerCase();
  const found = jobs.filter((job) => `${job.name} ${job.status} ${stateOf(job)} ${after(job)}`.toLowerCase().includes(wanted));
  $("count").textContent = found.length === jobs.length ? `${jobs.length}` : `${found.length} of ${jobs.length}`;
  const focused = [...$("jobs").children].indexOf(document.activeElement);
  const rows = found.slice(0, JOBS_SHOWN_MAX).map(row);
  if (!rows.length) rows.push(make("tr", {}, make("td", { colspan: "4", class: "empty" }, jobs.length ? "None is like that." : "There are no jobs yet.")));
  if (found.length > JOBS_SHOWN_MAX) rows.push(make("tr", {}, make("td", { colspan: "4", class: "empty" }, `and ${found.length - JOBS_SHOWN_MAX} more`)));
  $("jobs").replaceChildren(...rows);
  if (focused >= 0 && $("jobs").children[focused]) $("jobs").children[focused].focus();
}

function runRow(run) {
  const last = run.attempts.at(-1);
  const times = run.count > 1 ? `${run.state} × ${run.count}` : run.state;
  const exit = last ? (last.exitCode ?? (last.signal ? `signal ${last.signal}` : "")) : "";
  const cells = [
    `${run.run}`, local(run.nominalTime), run.becauseOf ? `${run.cause} (${run.becauseOf})` : run.cause, null,
    `${run.attempts.length}`, last ? last.node + (last.outputLost ? " (lost)" : "") : "", `${exit}`,
    last ? local(last.startTime) : "", last ? took(last.startTime, last.endTime) : "", run.reason,
  ];
  const element = make("tr", {}, ...cells.map((text) => make("td", { class: "wide", title: text ?? "" }, text ?? "")));
  element.children[3].replaceChildren(shown(run.state));
  element.children[3].title = times;
  if (run.count > 1) element.children[3].append(` × ${run.count}`);
  return element;
}

async function showJob() {
  if (chosen === null) return;
  const name = chosen;
  const [job, runs] = await Promise.all([call("GET", jobPath(name)), call("GET", addedPath(name, `/runs?limit=${RUNS_SHOWN_MAX}`))]);
  const due = job.parents ? null : await call("GET", addedPath(name, `/next?count=${NEXT_SHOWN}`));
  if (name !== chosen) return;
  $("job-name").textContent = name;
  $("job-about").textContent = `${job.successCount} succeeded, ${job.errorCount} failed · ${job.description || job.command || (job.container ?? {}).image || ""}`;
  $("disable").textContent = job.disabled ? "Enable" : "Disable";
  $("disable").dataset.to = job.disabled ? "enable" : "disable";
  if (due === null) $("next").textContent = `Runs after ${job.parents.join(", ")}.`;
  else if (job.disabled) $("next").textContent = "It is disabled.";
  else $("next").textContent = due.length ? `Next: ${due.map((one) => local(one.nominalTime)).join(" · ")}` : "It is due no more.";
  const rows = runs.map(runRow);
  $("runs").replaceChildren(...(rows.length ? rows : [make("tr", {}, make("td", { colspan: "10", class: "empty" }, "It has not run yet."))]));
  $("logs").textContent = `orlop chronos job logs ${name} --run N`;
  $("definition").textContent = JSON.stringify(job, null, 2);
}

async function openJob(name) {
  chosen = name;
  $("said").textContent = "";
  await quietly(showJob);
  if (chosen === name && !$("job").open) $("job").showModal();
}

async function act(method, path, said) {
  try {
    await call(method, path);
    $("said").textContent = said;
  } catch (error) {
    $("said").textContent = error.message;
  }
  await refresh();
}

async function quietly(work) {
  try {
    await work();
    $("link").textContent = "live";
    $("link").className = "live";
  } catch (error) {
    $("link").textContent = error.message;
    $("link").className = "lost";
  }
}

async function refresh() {
  await quietly(async () => {
    const [summary, leader, all] = await Promise.all(
      [call("GET", "/jobs/summary"), call("GET", "/leader"), call("GET", "/pause")],
    );
    jobs = summary.jobs.sort((one, other) => one.name.localeCompare(other.name));
    $("about").textContent = `on Orlop, at ${leader.leader}${all.paused ? " · everything is paused" : ""}`;
    showJobs();
    await showJob();
  });
}

$("filter").addEventListener("input", showJobs);
$("job").addEventListener("close", () => { chosen = null; });
$("run").addEventListener("click", () => act("PUT", jobPath(chosen), "It is asked for."));
$("kill").addEventListener("click", () => act("DELETE", `/task/kill/${encodeURIComponent(chosen)}`, "It is being stopped."));
$("disable").addEventListener("click", () => act("PUT", addedPath(chosen, `/${$("disable").dataset.to}`), "Done."));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== $("filter") && !$("job").open) {
    event.preventDefault();
    $("filter").focus();
  }
});
setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);
refresh().then(() => { if (location.hash.length > 1) openJob(decodeURIComponent(location.hash.slice(1))); });
