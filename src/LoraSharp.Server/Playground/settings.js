// Sampling settings: one table, from which the form, the request and the defaults come.
import { byId, make, memory } from "./dom.js";
import { buildForm, formFields, formOf } from "./form.js";

const fields = [
  { key: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, value: 0.7, neutral: 1, hint: "0 takes the likeliest token" },
  { key: "top_p", label: "Top-p", min: 0.01, max: 1, step: 0.01, value: 1, neutral: 1, hint: "Keep the likeliest tokens that together reach this probability" },
  { key: "min_p", label: "Min-p", min: 0, max: 1, step: 0.01, value: 0, neutral: 0, hint: "Drop tokens below this share of the likeliest one's probability" },
  { key: "top_k", label: "Top-k", min: 0, max: 200, step: 1, value: 0, neutral: 0, hint: "Keep this many tokens; 0 keeps all" },
  { key: "repetition_penalty", label: "Repetition", min: 0.5, max: 2, step: 0.05, value: 1, neutral: 1, hint: "Divides the logits of tokens that were there already" },
  { key: "frequency_penalty", label: "Frequency", min: -2, max: 2, step: 0.1, value: 0, neutral: 0, hint: "Subtracted for each time a token was generated" },
  { key: "presence_penalty", label: "Presence", min: -2, max: 2, step: 0.1, value: 0, neutral: 0, hint: "Subtracted once for a token that was generated" },
  { key: "max_tokens", label: "Max tokens", min: 1, max: 4096, step: 1, value: 256, neutral: null, hint: "Longest answer" },
];

const texts = [
  { key: "seed", label: "Seed", value: "", type: "number", placeholder: "Random" },
  { key: "stop", label: "Stop strings", value: "", type: "text", placeholder: "One or several, with | between" },
];

const inputs = new Map();

export function buildSettings() {
  const saved = memory.read("settings", {});
  const form = byId("sampling");
  for (const field of fields) {
    const id = `set-${field.key}`;
    const number = make("input", { type: "number", id, min: field.min, max: field.max, step: field.step, title: field.hint });
    const range = make("input", { type: "range", min: field.min, max: field.max, step: field.step, "aria-label": field.label, title: field.hint, tabindex: -1 });
    const set = value => {
      number.value = value;
      range.value = value;
      paint(range);
    };
    number.addEventListener("input", () => {
      range.value = number.value;
      paint(range);
    });
    range.addEventListener("input", () => set(range.value));
    inputs.set(field.key, { read: () => (number.value === "" ? field.value : clamp(Number(number.value), field)), set, field });
    set(saved[field.key] ?? field.value);
    form.append(make("div", { class: "setting" }, make("label", { for: id, title: field.hint }, field.label), number, range));
  }

  for (const field of texts) {
    const id = `set-${field.key}`;
    const input = make("input", { id, type: field.type, placeholder: field.placeholder, spellcheck: "false" });
    inputs.set(field.key, { read: () => input.value, set: value => { input.value = value; }, field });
    input.value = saved[field.key] ?? field.value;
    form.append(make("div", { class: "setting line" }, make("label", { for: id }, field.label), input));
  }

  const others = ["system", "probabilities", "heat", "single-keys", ...formFields].map(byId);
  for (const box of others) {
    const was = saved[box.id];
    if (was !== undefined) {
      box[box.type === "checkbox" ? "checked" : "value"] = was;
    }
  }

  buildForm();
  const remember = () => memory.write("settings", {
    ...Object.fromEntries([...inputs].map(([key, input]) => [key, input.read()])),
    ...Object.fromEntries(others.map(box => [box.id, box.type === "checkbox" ? box.checked : box.value])),
  });
  document.addEventListener("change", remember);
  form.addEventListener("submit", event => event.preventDefault());
  byId("reset").addEventListener("click", () => {
    for (const input of inputs.values()) {
      input.set(input.field.value);
    }

    for (const box of formFields.map(byId)) {
      box[box.type === "checkbox" ? "checked" : "value"] = box.type === "checkbox" ? box.defaultChecked : "";
      box.dispatchEvent(new Event(box.tagName === "SELECT" ? "change" : "input"));
    }

    remember();
  });
}

/** The settings as fields of a request; what is neutral is left out. */
export function samplingOf() {
  const request = {};
  for (const field of fields) {
    const value = inputs.get(field.key).read();
    if (value !== field.neutral) {
      request[field.key] = value;
    }
  }

  const seed = inputs.get("seed").read();
  if (seed !== "") {
    request.seed = Math.trunc(Number(seed));
  }

  const stops = inputs.get("stop").read().split("|").filter(stop => stop !== "");
  if (stops.length > 0) {
    request.stop = stops.map(stop => stop.replaceAll("\\n", "\n"));
  }

  return { ...request, ...formOf(mode()) };
}

export const wantsProbabilities = () => byId("probabilities").checked;

export const mode = () => document.querySelector('input[name="mode"]:checked').value;

export function setMode(value, only) {
  for (const radio of document.querySelectorAll('input[name="mode"]')) {
    radio.checked = radio.value === value;
    radio.disabled = only && radio.value !== value;
  }

  byId("system-row").hidden = value !== "chat";
}

function clamp(value, field) {
  return Number.isFinite(value) ? Math.min(field.max, Math.max(field.min, value)) : field.value;
}

// The part left of the knob is filled: a custom property, since a style attribute would be against the page's policy.
function paint(range) {
  range.style.setProperty("--filled", `${(100 * (range.value - range.min)) / (range.max - range.min)}%`);
}
