// The server, as this page talks to it. Addresses are relative, so that a prefix of a proxy does not matter.
import { byId } from "./dom.js";

export class ApiFault extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const keyFields = { api: "api-key", admin: "admin-key" };

export function restoreKeys() {
  for (const [name, id] of Object.entries(keyFields)) {
    const field = byId(id);
    try {
      field.value = sessionStorage.getItem(name) ?? "";
      field.addEventListener("change", () => sessionStorage.setItem(name, field.value));
    } catch {
      // Typed again after a reload, then.
    }
  }
}

function headers(admin) {
  const key = (admin && byId(keyFields.admin).value) || byId(keyFields.api).value;
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function refuse(response) {
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // A proxy's page or nothing at all: the status says it.
  }

  throw new ApiFault(message || `${response.status} ${response.statusText}`, response.status);
}

export async function get(path, admin = false) {
  const response = await fetch(path, { headers: headers(admin), cache: "no-store" });
  return response.ok ? response.json() : refuse(response);
}

export async function post(path, body, admin = false) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers(admin) }, body: JSON.stringify(body) });
  return response.ok ? response.text() : refuse(response);
}

/** The events of a streamed answer, one parsed object each. */
export async function* stream(path, body, signal) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers(false) }, body: JSON.stringify({ ...body, stream: true }), signal });
  if (!response.ok) {
    await refuse(response);
  }

  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      return;
    }

    const lines = (pending + value).split("\n");
    pending = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) {
        continue;
      }

      const data = line.slice(5).trim();
      if (data === "[DONE]") {
        return;
      }

      const event = JSON.parse(data);
      if (event.error) {
        throw new ApiFault(event.error.message, event.error.code);
      }

      yield event;
    }
  }
}
