// What an answer must look like, and the fields of a request that are written as they are sent.
import { byId } from "./dom.js";

const hints = {
  json_schema: '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}',
  regex: "[A-Z][a-z]+, [0-9]{4}",
  choice: "One choice a line",
};

const isObject = value => value !== null && typeof value === "object" && !Array.isArray(value);
const isIds = list => list.every(id => Number.isInteger(id) && id >= 0);

// Each reads its text, or throws what is wrong with it.
const readers = {
  "form-text": text => {
    const kind = byId("form-kind").value;
    if (kind === "json_schema") {
      return object(text, "a JSON schema");
    }

    if (kind === "choice") {
      const choices = text.split("\n").filter(line => line !== "");
      return choices.length > 0 ? choices : fail("Expected at least one choice.");
    }

    return kind !== "regex" || text !== "" ? text : fail("Expected a regular expression.");
  },
  "stop-ids": text => {
    const ids = text.split(/[\s,]+/).filter(id => id !== "").map(Number);
    return isIds(ids) ? ids : fail("Expected token ids: whole numbers with commas between.");
  },
  "logit-bias": text => (text.trim() === "" ? {} : object(text, 'an object such as {"50": -100}')),
  "other-fields": text => (text.trim() === "" ? {} : object(text, 'an object such as {"n": 1}')),
};

function fail(message) {
  throw new Error(message);
}

function object(text, what) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    fail(`Expected ${what}: ${error.message}`);
  }

  return isObject(value) ? value : fail(`Expected ${what}.`);
}

const usesText = () => byId("form-kind").value in hints;
const isUsed = id => id !== "form-text" || usesText();

function check(id) {
  const field = byId(id);
  try {
    if (isUsed(id)) {
      readers[id](field.value);
    }

    field.setCustomValidity("");
  } catch (error) {
    field.setCustomValidity(error.message);
  }
}

export function buildForm() {
  const kind = byId("form-kind");
  const shown = () => {
    byId("form-row").hidden = !usesText();
    byId("form-text").placeholder = hints[kind.value] ?? "";
    check("form-text");
  };
  kind.addEventListener("change", shown);
  shown();
  for (const id of Object.keys(readers)) {
    byId(id).addEventListener("input", () => check(id));
    check(id);
  }
}

/** Whether all can be sent; shows what cannot. open: makes the fields seen. */
export function formIsFine(open) {
  const wrong = Object.keys(readers).find(id => !byId(id).checkValidity());
  if (wrong) {
    open();
    byId(wrong).closest("details").open = true;
    byId(wrong).reportValidity();
  }

  return !wrong;
}

/** The fields of a request; what cannot be read is left out. */
export function formOf(mode) {
  const request = {};
  const read = id => (byId(id).checkValidity() ? readers[id](byId(id).value) : null);
  const kind = byId("form-kind").value;
  const form = kind === "" ? null : kind === "json_object" ? true : read("form-text");
  if (form !== null && kind === "json_object") {
    request.response_format = { type: kind };
  } else if (form !== null && kind === "json_schema") {
    request.response_format = { type: kind, json_schema: { name: "answer", schema: form } };
  } else if (form !== null) {
    request.structured_outputs = { [kind]: form };
  }

  const ids = read("stop-ids");
  if (ids?.length > 0) {
    request.stop_token_ids = ids;
  }

  const bias = read("logit-bias");
  if (bias && Object.keys(bias).length > 0) {
    request.logit_bias = bias;
  }

  if (byId("ignore-eos").checked) {
    request.ignore_eos = true;
  }

  if (!byId("skip-special").checked) {
    request.skip_special_tokens = false;
  }

  if (mode === "text" && byId("echo").checked) {
    request.echo = true;
  }

  return { ...request, ...read("other-fields") };
}

export const formFields = ["form-kind", "form-text", "stop-ids", "logit-bias", "other-fields", "ignore-eos", "skip-special", "echo"];
