// The playground: asks as the person who is signed in, shows tokens as they arrive, and keeps a question that failed.
import { chunks, Failed, request, requestJson } from "./model_answers.js";

const settings = document.getElementById("settings");
const modelField = document.getElementById("model");
const note = document.getElementById("settings-note");
const balance = document.getElementById("balance");
const chat = document.getElementById("chat");
const question = document.getElementById("question");
const sendButton = document.getElementById("send");
const stopButton = document.getElementById("stop");

const HOLD_PAUSE_MS = 500;
const HOLD_TRIES = 10;
let messages = []; // what the model has been told and has answered
let running = null; // the answer that is being written
let failed = []; // what the page shows of a question that got no answer; it goes when the next one is asked

async function loadModels() {
  let body;
  try {
    body = await requestJson(settings.dataset.modelsUrl);
  } catch (error) {
    note.textContent = error.message;
    return;
  }
  modelField.replaceChildren(...body.data.map((model) => new Option(model.id, model.id)));
  modelField.disabled = body.data.length === 0;
  note.textContent = body.data.length ? "" : "No model is served and priced at the moment. Try again later.";
}

// Credits that are held come back a moment after an answer ends, so a balance with holds is asked for again.
async function refreshBalance() {
  for (let attempt = 0; attempt < HOLD_TRIES; attempt++) {
    let body;
    try {
      body = await requestJson(settings.dataset.balanceUrl);
    } catch {
      return; // the next answer asks again
    }
    balance.textContent = body.available;
    if (!body.has_holds || running) return;
    await new Promise((resolve) => setTimeout(resolve, HOLD_PAUSE_MS));
  }
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

// The token of now: logging in again in another tab makes the one that this page came with useless.
function csrfToken() {
  const cookie = /(?:^|; )csrftoken=([^;]+)/.exec(document.cookie);
  return cookie ? cookie[1] : settings.querySelector("[name=csrfmiddlewaretoken]").value;
}

// Number fields that are filled in; for an empty one the model's own default holds.
function chosenNumbers() {
  const fields = { temperature: "temperature", max_tokens: "max-tokens" };
  const filled = Object.entries(fields).map(([name, id]) => [name, document.getElementById(id)]);
  return Object.fromEntries(filled.filter(([, field]) => field.value !== "").map(([name, field]) => [name, field.valueAsNumber]));
}

// Send the conversation and call `show(answer)` as the answer grows: its text, its request's id, the code that answers,
// at last its usage.
async function receive(conversation, signal, answer, show) {
  const response = await request(settings.dataset.chatUrl, {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken() },
    body: JSON.stringify({
      model: modelField.value,
      messages: conversation,
      stream: true,
      stream_options: { include_usage: true },
      ...chosenNumbers(),
    }),
  });
  answer.requestId = response.headers.get("X-Gainshare-Request-Id");
  for await (const chunk of chunks(response)) {
    answer.usage = chunk.usage ?? answer.usage;
    answer.fingerprint = chunk.system_fingerprint ?? answer.fingerprint;
    answer.text += chunk.choices[0]?.delta.content ?? "";
    show(answer);
  }
}

function setRunning(controller) {
  running = controller;
  sendButton.disabled = controller !== null;
  stopButton.disabled = controller === null;
}

async function ask(text) {
  failed.forEach((element) => element.remove());
  failed = [];
  const conversation = messages; // "Start over" replaces it, and what still arrives then belongs nowhere
  const asked = { role: "user", content: text };
  const askedBubble = bubble("user", text);
  const answerBubble = bubble("assistant", "");
  const answer = { text: "", requestId: null, usage: null, fingerprint: null };
  const controller = new AbortController();
  setRunning(controller);
  let failure = null;
  try {
    await receive([...conversation, asked], controller.signal, answer, ({ text: written }) => {
      answerBubble.firstChild.data = written;
      chat.scrollTop = chat.scrollHeight;
    });
  } catch (error) {
    failure = error;
  }
  controller.abort(); // whatever failed, nothing more is wanted of this answer
  setRunning(null);
  refreshBalance();
  if (conversation !== messages) return;
  const turn = answer.text || !failure ? [asked, { role: "assistant", content: answer.text }] : [];
  messages.push(...turn);
  if (turn.length) answerBubble.append(bill(answer));
  else answerBubble.remove();
  if (failure) keepQuestion(text, failure, turn, [askedBubble, answerBubble]);
}

// Give back the question that got no whole answer, and say why unless the person stopped it.
function keepQuestion(text, failure, turn, bubbles) {
  if (!turn.length) {
    failed.push(bubbles[0]);
    if (!question.value) question.value = text;
  }
  if (failure.name === "AbortError") return;
  const message = failure instanceof Failed ? failure.message : `This page failed: ${failure.message}`;
  const notice = bubble("error", turn.length ? message : `${message} Your question is kept.`);
  const again = document.createElement("button");
  again.type = "button";
  again.className = "button button-plain button-small";
  again.textContent = "Ask again";
  again.addEventListener("click", () => {
    if (running) return;
    messages = messages.filter((message) => !turn.includes(message));
    bubbles.forEach((element) => element.remove());
    if (question.value.trim() === text) question.value = "";
    ask(text);
  });
  notice.append(again);
  failed.push(notice);
  chat.scrollTop = chat.scrollHeight;
}

function bill({ requestId, usage, fingerprint }) {
  const line = document.createElement("span");
  line.className = "meta";
  line.append(usage ? `${usage.prompt_tokens} + ${usage.completion_tokens} tokens, ` : "Not complete, ");
  if (fingerprint) line.append(`tree ${fingerprint.replace("fp_", "")}, `);
  const link = document.createElement("a");
  link.href = `${settings.dataset.usageUrl}${requestId}/`;
  link.textContent = "see the bill";
  line.append(link);
  return line;
}

document.getElementById("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running || !settings.reportValidity()) return;
  if (modelField.disabled) await loadModels();
  if (modelField.disabled || running || question.value.trim() !== text) return;
  question.value = "";
  ask(text);
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    document.getElementById("ask").requestSubmit();
  }
});
settings.addEventListener("submit", (event) => event.preventDefault());
stopButton.addEventListener("click", () => running?.abort());
document.getElementById("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  failed = [];
  chat.replaceChildren();
});
// What was spent elsewhere meanwhile, and a network that is back.
document.addEventListener("visibilitychange", () => document.hidden || refreshBalance());
window.addEventListener("online", () => modelField.disabled && loadModels());

loadModels();
