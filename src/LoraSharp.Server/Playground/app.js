// Puts the page together: what is polled, what keys do, how the panels open and close.
import { AdapterPanel } from "./adapters.js";
import { get, restoreKeys } from "./api.js";
import { Conversation } from "./conversation.js";
import { byId, copy, make, memory } from "./dom.js";
import { EnginePanel, poll, TrainingPanel } from "./engine.js";
import { formIsFine } from "./form.js";
import { buildSettings, mode, setMode } from "./settings.js";
import { asCSharp, asCurl } from "./snippets.js";
import { hidePeek } from "./tokens.js";

const starters = ["Explain what a LoRA adapter is in two sentences.", "Write a haiku about rain on a tin roof.", "Name three uses for an old bicycle wheel."];

buildSettings();
restoreKeys();
const conversation = new Conversation();
const adapters = new AdapterPanel(refreshModels, name => conversation.addColumn(name));
const engine = new EnginePanel();
const training = new TrainingPanel();
let status = null;
let modelsSeen = "";

async function refreshModels() {
  const { data } = await get("v1/models");
  const seen = JSON.stringify([data, status?.adapter_changes]);
  if (seen !== modelsSeen) {
    modelsSeen = seen;
    conversation.setModels(data);
    adapters.draw(data.filter(m => m.parent), status?.adapter_changes !== false);
  }
}

function pulse(state, text) {
  byId("pulse").dataset.state = state;
  byId("pulse-text").textContent = text;
}

poll(async () => {
  try {
    const fresh = await get("status");
    if (status === null) {
      byId("served").textContent = fresh.model;
      document.title = `${fresh.model} · LoraSharp`;
      setMode(fresh.chat ? mode() : "text", !fresh.chat);
    }

    const changed = JSON.stringify(status?.adapters) !== JSON.stringify(fresh.adapters);
    status = fresh;
    engine.add(fresh);
    pulse("up", fresh.running > 0 ? `${fresh.running} running${fresh.waiting > 0 ? `, ${fresh.waiting} waiting` : ""}` : "ready");
    if (changed) {
      await refreshModels();
    }

    if (fresh.training) {
      await training.poll();
    }
  } catch (error) {
    pulse("down", error.status === 401 ? "needs an API key" : "no connection");
    if (error.status === 401 && !byId("keys-box").open) {
      byId("keys-box").open = true;
      showPanel("engine", true);
      byId("api-key").focus();
    }
  }
});

// Sending and stopping.
const prompt = byId("prompt");
const send = byId("send");

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${Math.min(prompt.scrollHeight, innerHeight * 0.4)}px`;
}

byId("composer").addEventListener("submit", event => {
  event.preventDefault();
  if (conversation.isRunning) {
    conversation.stop();
  } else if (prompt.value.trim() !== "" && status !== null && formIsFine(() => showPanel("settings", true))) {
    const text = mode() === "chat" ? prompt.value.trim() : prompt.value;
    prompt.value = "";
    fit();
    conversation.ask(text);
  }
});
prompt.addEventListener("input", fit);
prompt.addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!conversation.isRunning) {
      byId("composer").requestSubmit();
    }
  } else if (event.key === "ArrowUp" && prompt.value === "") {
    event.preventDefault();
    prompt.value = conversation.lastPrompt;
    fit();
  }
});
document.addEventListener("running", () => {
  send.textContent = conversation.isRunning ? "Stop" : "Send";
  send.classList.toggle("stop", conversation.isRunning);
});
byId("new-chat").addEventListener("click", () => conversation.clear());
byId("starters").append(...starters.map(text => make("li", {}, make("button", { type: "button", onclick: () => {
  if (status !== null && formIsFine(() => showPanel("settings", true))) {
    conversation.ask(text);
  }
} }, text))));

// Settings that act at once.
document.querySelectorAll('input[name="mode"]').forEach(radio => radio.addEventListener("change", () => setMode(radio.value, false)));
const shade = () => byId("turns").classList.toggle("heat", byId("heat").checked);
byId("heat").addEventListener("change", shade);
shade();
for (const [id, write] of [["copy-curl", asCurl], ["copy-csharp", asCSharp]]) {
  byId(id).addEventListener("click", event => copy(event.currentTarget, write(conversation.request(prompt.value || conversation.lastPrompt || "Hello"))));
}

// Panels: beside the conversation on a wide window, over it on a narrow one.
const narrow = matchMedia("(max-width: 900px)");

function showPanel(name, open) {
  document.body.classList.toggle(`no-${name}`, !open);
  byId(`toggle-${name}`).setAttribute("aria-expanded", String(open));
  if (narrow.matches && open) {
    const other = name === "settings" ? "engine" : "settings";
    document.body.classList.add(`no-${other}`);
    byId(`toggle-${other}`).setAttribute("aria-expanded", "false");
  } else if (!narrow.matches) {
    memory.write(`panel-${name}`, open);
  }
}

function arrange() {
  for (const name of ["settings", "engine"]) {
    document.body.classList.toggle(`no-${name}`, narrow.matches || !memory.read(`panel-${name}`, true));
    byId(`toggle-${name}`).setAttribute("aria-expanded", String(!document.body.classList.contains(`no-${name}`)));
  }
}

const toggle = name => showPanel(name, document.body.classList.contains(`no-${name}`));
narrow.addEventListener("change", arrange);
arrange();
for (const name of ["settings", "engine"]) {
  byId(`toggle-${name}`).addEventListener("click", () => toggle(name));
}

document.querySelectorAll("[data-close]").forEach(button => button.addEventListener("click", () => {
  showPanel(button.dataset.close, false);
  byId(`toggle-${button.dataset.close}`).focus();
}));

// Keys. Single letters can be switched off and never act while something is typed.
byId("keys-form").addEventListener("submit", event => event.preventDefault());
byId("open-help").addEventListener("click", () => byId("help").showModal());
const letters = {
  "/": () => prompt.focus(),
  "?": () => byId("help").showModal(),
  n: () => conversation.clear(),
  a: () => conversation.addColumn(),
  s: () => toggle("settings"),
  e: () => toggle("engine"),
  t: () => byId("toggle-theme").click(),
};
document.addEventListener("keydown", event => {
  if (event.key === "Escape") {
    hidePeek();
    conversation.stop();
    if (narrow.matches) {
      arrange();
    }
  }

  const typing = event.target.closest("input, textarea, select, dialog");
  if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey && byId("single-keys").checked && letters[event.key.toLowerCase()]) {
    event.preventDefault();
    letters[event.key.toLowerCase()]();
  }
});
addEventListener("scroll", hidePeek, { capture: true, passive: true });
prompt.focus();
