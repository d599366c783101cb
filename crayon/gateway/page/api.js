// What the page asks of its gateway; nothing else is ever asked.

const TOKEN = "crayon.token";

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the gateway answered ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

async function askToken() {
  const dialog = document.getElementById("ask-token");
  const field = document.getElementById("token");
  field.value = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue !== "ok" || !field.value) return false;
  sessionStorage.setItem(TOKEN, field.value.trim());
  return true;
}

/** Ask, and return the response; a token is asked of the user where one is wanted. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "the gateway cannot be reached: does `crayon gateway` run?" });
  }
  if (response.status === 401 && (await askToken())) return ask(path, { body, signal });
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Refused(response.status, said.error ?? said);
  }
  return response;
}

export async function json(path, options) {
  return (await ask(path, options)).json();
}

/** Yield the lines of a response as they come. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
  if (rest) yield rest;
}

/** Yield the objects of a response that holds one a line. */
export async function* records(path, options) {
  for await (const line of lines(await ask(path, options))) {
    if (!line) continue;
    const record = JSON.parse(line);
    if (record.error) throw new Refused(200, record.error);
    yield record;
  }
}

/** Yield the chunks of a chat's answer. */
export async function* chunks(body, signal) {
  const response = await ask("v1/chat/completions", { body: { ...body, stream: true, stream_options: { include_usage: true } }, signal });
  for await (const line of lines(response)) {
    if (!line.startsWith("data: ")) continue;
    const data = line.slice(6);
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(200, chunk.error);
    yield chunk;
  }
}
