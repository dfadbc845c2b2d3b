// Asks the site and reads what comes back: JSON, a stream of a model's tokens, or any of the ways in which neither comes.
// What it throws, except for an abort, is a `Failed` whose message is for the person at the page.

export class Failed extends Error {}

const UNREACHABLE = "The site could not be reached: the network is down, or the site is restarting. Try again in a moment.";
const BROKEN_OFF = "The connection broke off before the answer was complete. Only the tokens that you received are billed.";

export async function request(url, options = {}) {
  const response = await orFailed(fetch(url, options), UNREACHABLE);
  if (!response.ok) throw new Failed(await reason(response));
  return response;
}

export async function requestJson(url) {
  const body = await json(await request(url));
  if (body === null) throw new Failed("The site's answer could not be read. Reload the page and try again.");
  return body;
}

// The chunks of a streamed answer; ends with it, and fails where the stream ends without saying so.
export async function* chunks(response) {
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    throw new Failed("The answer did not come from a model; a proxy between this browser and the site may have sent it. Try again, or use another network.");
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await orFailed(reader.read(), BROKEN_OFF);
    if (done) throw new Failed(BROKEN_OFF);
    const events = (buffer + value).split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      yield chunk(data);
    }
  }
}

function chunk(data) {
  let parsed;
  try {
    parsed = JSON.parse(data);
  } catch {
    throw new Failed(BROKEN_OFF);
  }
  if (parsed.error) throw new Failed(parsed.error.message);
  return parsed;
}

async function reason(response) {
  const message = (await json(response))?.error?.message;
  if (typeof message === "string") return message;
  if (response.status === 403) return "The page is out of date, so the site refused the request. Reload the page, then ask again.";
  if (response.status >= 500) return `The site failed to answer (status ${response.status}). Try again in a moment.`;
  return `The site refused the request without a reason (status ${response.status}). Reload the page, then ask again.`;
}

// The body as JSON; null where it is none, as a proxy's page of HTML.
async function json(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return null;
  }
}

async function orFailed(promise, message) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(message);
  }
}
