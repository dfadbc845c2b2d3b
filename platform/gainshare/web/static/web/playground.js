// The playground: a plain client of /v1/chat/completions that shows tokens as they arrive.
"use strict";

const settings = document.getElementById("settings");
const keyField = document.getElementById("key");
const modelField = document.getElementById("model");
const note = document.getElementById("settings-note");
const chat = document.getElementById("chat");
const question = document.getElementById("question");
const sendButton = document.getElementById("send");
const stopButton = document.getElementById("stop");

const KEY_SLOT = "gainshare-playground-key";
let messages = [];
let running = null;

function authorization() {
  return { Authorization: `Bearer ${keyField.value.trim()}` };
}

async function loadModels() {
  modelField.disabled = true;
  if (!keyField.value.trim()) return;
  const response = await fetch(settings.dataset.modelsUrl, { headers: authorization() });
  const body = await response.json();
  if (!response.ok) {
    note.textContent = body.error.message;
    return;
  }
  modelField.replaceChildren(...body.data.map((model) => new Option(model.id, model.id)));
  modelField.disabled = body.data.length === 0;
  note.textContent = body.data.length ? "" : "No model is served and priced at the moment.";
  sessionStorage.setItem(KEY_SLOT, keyField.value.trim());
}

async function makeKey() {
  const token = settings.querySelector("[name=csrfmiddlewaretoken]").value;
  const response = await fetch(settings.dataset.keyUrl, { method: "POST", headers: { "X-CSRFToken": token } });
  if (!response.ok) {
    note.textContent = "No key could be made. Reload the page and try again.";
    return;
  }
  keyField.value = (await response.json()).key;
  await loadModels();
}

function bubble(kind, text) {
  document.getElementById("chat-empty")?.remove();
  const element = document.createElement("div");
  element.className = `bubble bubble-${kind}`;
  element.append(document.createTextNode(text));
  chat.append(element);
  chat.scrollTop = chat.scrollHeight;
  return element;
}

async function* events(response) {
  const decoder = new TextDecoder();
  let buffer = "";
  for await (const bytes of streamOf(response.body)) {
    buffer += decoder.decode(bytes, { stream: true });
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function* streamOf(body) {
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

async function ask(text) {
  messages.push({ role: "user", content: text });
  bubble("user", text);
  const answer = bubble("assistant", "");
  running = new AbortController();
  sendButton.disabled = true;
  stopButton.disabled = false;
  let written = "";
  let requestId = null;
  let usage = null;
  try {
    const response = await fetch(settings.dataset.chatUrl, {
      method: "POST",
      signal: running.signal,
      headers: { "Content-Type": "application/json", ...authorization() },
      body: JSON.stringify({
        model: modelField.value,
        messages,
        stream: true,
        stream_options: { include_usage: true },
        temperature: Number(document.getElementById("temperature").value),
        max_tokens: Number(document.getElementById("max-tokens").value),
      }),
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    requestId = response.headers.get("X-Gainshare-Request-Id");
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      usage = chunk.usage ?? usage;
      written += chunk.choices[0]?.delta.content ?? "";
      answer.firstChild.data = written;
      chat.scrollTop = chat.scrollHeight;
    }
    messages.push({ role: "assistant", content: written });
  } catch (error) {
    if (written) messages.push({ role: "assistant", content: written });
    else messages.pop();
    if (!written) answer.remove();
    if (error.name !== "AbortError") bubble("error", error.message);
  } finally {
    running = null;
    sendButton.disabled = false;
    stopButton.disabled = true;
  }
  if (requestId && written) answer.append(bill(requestId, usage));
}

function bill(requestId, usage) {
  const line = document.createElement("span");
  line.className = "meta";
  line.append(usage ? `${usage.prompt_tokens} + ${usage.completion_tokens} tokens, ` : "Stopped, ");
  const link = document.createElement("a");
  link.href = `${settings.dataset.usageUrl}${requestId}/`;
  link.textContent = "see the bill";
  line.append(link);
  return line;
}

document.getElementById("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running) return;
  if (!keyField.value.trim() || modelField.disabled) {
    note.textContent = "Enter a key, or make one for an hour, and choose a model.";
    keyField.focus();
    return;
  }
  question.value = "";
  ask(text);
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    document.getElementById("ask").requestSubmit();
  }
});
settings.addEventListener("submit", (event) => event.preventDefault());
keyField.addEventListener("change", loadModels);
document.getElementById("make-key").addEventListener("click", makeKey);
stopButton.addEventListener("click", () => running?.abort());
document.getElementById("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  chat.replaceChildren();
});

keyField.value = sessionStorage.getItem(KEY_SLOT) ?? "";
loadModels();
