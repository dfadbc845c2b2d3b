// Follows a request until it is settled: polls its tokens and times, and loads the page again when its state changes.
"use strict";

const device = document.getElementById("device");
const POLL_MS = 1000;
const SLOWEST_POLL_MS = 30000;

let pause = POLL_MS;

async function poll() {
  let body;
  try {
    const response = await fetch(device.dataset.liveUrl);
    if (!response.ok) throw new Error(String(response.status));
    body = await response.json();
    pause = POLL_MS;
  } catch {
    pause = Math.min(pause * 2, SLOWEST_POLL_MS);
    return true;
  }
  if (body.state !== device.dataset.state) {
    window.location.reload();
    return false;
  }
  show(body);
  return true;
}

function show(body) {
  document.getElementById("device-tokens").textContent = body.tokens;
  const parts = body.times.flatMap(([label, time]) => [element("dt", label), element("dd", time)]);
  document.getElementById("device-times").replaceChildren(...parts);
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

async function follow() {
  do {
    await new Promise((resolve) => setTimeout(resolve, pause));
  } while (await poll());
}

if (device && device.dataset.liveUrl) follow();
