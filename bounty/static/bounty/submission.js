// Follows a submission while it is judged: polls the live view, moves the bar, appends the log.
"use strict";

const log = document.getElementById("log");
const progress = document.getElementById("progress");
const POLL_MS = 1500;
const SLOWEST_POLL_MS = 30000;

let offset = log ? Number(log.dataset.nextOffset) : 0; // the log is sealed for most until the verdict
let pause = POLL_MS;

async function poll() {
  let body;
  try {
    const response = await fetch(`${(log || progress).dataset.liveUrl}?offset=${offset}`);
    if (!response.ok) throw new Error(String(response.status));
    body = await response.json();
    pause = POLL_MS;
  } catch {
    pause = Math.min(pause * 2, SLOWEST_POLL_MS);
    return true;
  }
  if (log && body.log) {
    append(body.log.text);
    offset = body.log.next_offset;
  }
  if (progress) {
    if (body.state !== progress.dataset.state || body.is_settled) {
      window.location.reload();
      return false;
    }
    show(body);
  }
  // A log that is sealed from some place on is not final, but nothing more comes before the decision.
  return !body.is_settled || (body.log !== null && !body.log.is_final && body.log.text !== "");
}

function append(text) {
  if (!text) return;
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(document.createTextNode(text));
  log.hidden = false;
  document.getElementById("log-empty").hidden = true;
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function show(body) {
  document.getElementById("progress-headline").textContent = body.headline;
  document.getElementById("progress-detail").textContent = body.detail;
  const bar = document.getElementById("progress-bar");
  bar.hidden = body.pairs_max === 0;
  bar.max = body.pairs_max || 1;
  bar.value = body.pairs_done;
  document.getElementById("progress-pairs").textContent = body.counted;
}

async function follow() {
  while (await poll()) await new Promise((resolve) => setTimeout(resolve, pause));
}

if (log) log.scrollTop = log.scrollHeight;
if (progress || (log && log.dataset.final !== "true")) follow();
