// Models side by side: a prompt is one turn, with an answer of each.
import { ApiFault, stream } from "./api.js";
import { announce, byId, copy, make, memory } from "./dom.js";
import { mode, samplingOf, wantsProbabilities } from "./settings.js";
import { hidePeek, TokenText } from "./tokens.js";

const most = 4;
const topTokens = 5;

export class Conversation {
  #models = [];
  #columns = [];
  #turns = [];
  #running = new Set();
  #next = 1;

  /** Models that can be chosen, the base first; columns of models that are gone fall back on the base. */
  setModels(models) {
    const first = this.#models.length === 0;
    this.#models = models;
    if (first && models.length > 0) {
      const known = memory.read("columns", []).filter(id => models.some(m => m.id === id));
      const ids = known.length > 0 ? known : models.slice(0, 2).map(m => m.id);
      this.#columns = ids.slice(0, most).map(id => ({ key: this.#next++, model: id }));
    }

    for (const column of this.#columns) {
      column.model = models.some(m => m.id === column.model) ? column.model : models[0]?.id;
    }

    this.#drawHeads();
  }

  get isRunning() {
    return this.#running.size > 0;
  }

  get lastPrompt() {
    return this.#turns.at(-1)?.prompt ?? "";
  }

  addColumn(model) {
    if (this.#columns.length >= most || this.#models.length === 0) {
      return;
    }

    const unused = this.#models.find(m => !this.#columns.some(c => c.model === m.id)) ?? this.#models[0];
    this.#columns.push({ key: this.#next++, model: model ?? unused.id });
    this.#changed();
    byId("heads").querySelectorAll("select")[this.#columns.length - 1].focus();
  }

  clear() {
    this.stop();
    this.#turns = [];
    hidePeek();
    byId("turns").querySelectorAll(".turn").forEach(turn => turn.remove());
    byId("welcome").hidden = false;
    byId("prompt").focus();
  }

  stop() {
    for (const controller of this.#running) {
      controller.abort();
    }
  }

  /** Asks every column; settled when the last answer has ended. */
  async ask(prompt) {
    byId("welcome").hidden = true;
    const answers = make("div", { class: "answers" });
    const turn = { prompt, answers: new Map(), models: this.#columns.map(c => c.model) };
    const row = make("article", { class: "turn", "aria-label": `Prompt: ${prompt.slice(0, 80)}` }, make("p", { class: "asked" }, prompt), answers);
    turn.row = row;
    this.#turns.push(turn);
    byId("turns").append(row);
    answers.style.setProperty("--columns", this.#columns.length);
    const work = this.#columns.map(column => this.#answer(turn, column, answers));
    row.append(make("div", { class: "turn-tools" },
      make("button", { type: "button", class: "quiet", onclick: () => this.#again(turn, row) }, "Again"),
      make("button", { type: "button", class: "quiet", onclick: () => this.#edit(turn, row) }, "Edit"),
      make("button", { type: "button", class: "quiet", onclick: event => copy(event.currentTarget, asText(turn)) }, "Copy")));
    row.scrollIntoView({ block: "end" });
    await Promise.all(work);
  }

  /** The request that the first column would send now. */
  request(prompt, column = this.#columns[0]) {
    const request = { model: column?.model ?? "", ...samplingOf() };
    const wanted = wantsProbabilities();
    if (mode() === "text") {
      return { path: "v1/completions", body: { ...request, prompt, ...(wanted ? { logprobs: topTokens } : {}) } };
    }

    const system = byId("system").value.trim();
    const messages = system === "" ? [] : [{ role: "system", content: system }];
    for (const turn of this.#turns) {
      const answer = turn.answers.get(column?.key);
      if (answer?.done) {
        messages.push({ role: "user", content: turn.prompt }, { role: "assistant", content: answer.view.text });
      }
    }

    messages.push({ role: "user", content: prompt });
    return { path: "v1/chat/completions", body: { ...request, messages, ...(wanted ? { logprobs: true, top_logprobs: topTokens } : {}) } };
  }

  #again(turn, row) {
    if (!this.isRunning) {
      this.#drop(turn, row);
      this.ask(turn.prompt);
    }
  }

  #edit(turn, row) {
    if (!this.isRunning) {
      this.#drop(turn, row);
      const prompt = byId("prompt");
      prompt.value = turn.prompt;
      prompt.dispatchEvent(new Event("input"));
      prompt.focus();
    }
  }

  // A turn and what followed it.
  #drop(turn, row) {
    this.#turns.splice(this.#turns.indexOf(turn));
    while (row.nextElementSibling) {
      row.nextElementSibling.remove();
    }

    row.remove();
    byId("welcome").hidden = this.#turns.length > 0;
  }

  async #answer(turn, column, host) {
    const text = make("div", { class: "text", "aria-label": `Answer of ${column.model}`, role: "group" });
    const foot = make("p", { class: "foot" }, "waiting");
    const box = make("section", { class: "answer running", "aria-busy": "true" }, make("h3", {}, column.model), text, foot);
    host.append(box);
    const answer = { model: column.model, view: new TokenText(text), done: false };
    turn.answers.set(column.key, answer);
    const controller = new AbortController();
    const { path, body } = this.request(turn.prompt, column);
    const figures = { start: performance.now(), first: null, tokens: 0, finish: null };
    this.#running.add(controller);
    document.dispatchEvent(new Event("running"));
    try {
      for await (const event of stream(path, { ...body, stream_options: { include_usage: true } }, controller.signal)) {
        const stick = isAtEnd();
        this.#take(event, answer, figures);
        foot.textContent = figuresText(figures);
        if (stick) {
          byId("turns").scrollTop = byId("turns").scrollHeight;
        }
      }

      answer.done = true;
    } catch (error) {
      if (error.name === "AbortError") {
        figures.finish = "stopped";
        answer.done = answer.view.text !== "";
      } else {
        box.append(make("p", { class: "fault" }, error instanceof ApiFault ? error.message : `No answer from the server (${error.message}).`));
        document.dispatchEvent(new CustomEvent("fault", { detail: error }));
      }
    } finally {
      this.#running.delete(controller);
      box.classList.remove("running");
      box.removeAttribute("aria-busy");
      foot.textContent = figuresText(figures);
      announce(`${column.model} has answered: ${answer.view.text.slice(0, 300)}`);
      document.dispatchEvent(new Event("running"));
    }
  }

  #take(event, answer, figures) {
    const choice = event.choices?.[0];
    if (event.usage) {
      figures.tokens = event.usage.completion_tokens;
    }

    if (!choice) {
      return;
    }

    figures.first ??= performance.now();
    figures.last = performance.now();
    figures.finish = choice.finish_reason ?? figures.finish;
    const scores = scoresOf(choice.logprobs);
    if (!event.usage) {
      figures.tokens += Math.max(1, scores.length);
    }

    for (const score of scores) {
      figures.surprise = (figures.surprise ?? 0) - score.logprob;
      figures.scored = (figures.scored ?? 0) + 1;
    }

    for (const call of choice.delta?.tool_calls ?? []) {
      answer.view.add(`\n→ ${call.function.name}(${call.function.arguments})`, []);
    }

    answer.view.add(choice.delta?.content ?? choice.text ?? "", scores);
  }

  #drawHeads() {
    const heads = byId("heads");
    heads.style.setProperty("--columns", this.#columns.length);
    heads.replaceChildren(...this.#columns.map((column, index) => {
      const select = make("select", { "aria-label": `Model ${index + 1}`, onchange: event => {
        column.model = event.target.value;
        this.#changed();
      } }, ...this.#models.map(m => make("option", { value: m.id, ...(m.id === column.model ? { selected: true } : {}) }, m.id)));
      const model = this.#models.find(m => m.id === column.model);
      return make("div", { class: "head" }, select,
        make("span", { class: "rank" }, model?.rank ? `r ${model.rank}` : model && !model.parent ? "base" : ""),
        this.#columns.length > 1 ? make("button", { type: "button", class: "quiet icon", "aria-label": `Remove ${column.model}`, onclick: () => this.#remove(column) }, "×") : "");
    }), make("button", { type: "button", class: "quiet icon add", id: "add-column", "aria-label": "Add a model beside", title: "Add a model beside", ...(this.#columns.length >= most ? { disabled: true } : {}), onclick: () => this.addColumn() }, "+"));
  }

  #remove(column) {
    this.#columns.splice(this.#columns.indexOf(column), 1);
    this.#changed();
  }

  #changed() {
    const models = this.#columns.map(c => c.model);
    memory.write("columns", models);
    this.#drawHeads();

    // Answers that no longer stand below their model's name carry it themselves.
    for (const turn of this.#turns) {
      turn.row.classList.toggle("named", turn.models.join("\n") !== models.join("\n"));
    }
  }
}

// Chat: {content: [{token, logprob, top_logprobs: [...]}]}; completions: parallel lists, the likeliest as an object.
function scoresOf(logprobs) {
  if (!logprobs) {
    return [];
  }

  if (logprobs.content) {
    return logprobs.content.map(s => ({ token: s.token, logprob: s.logprob, top: s.top_logprobs ?? [] }));
  }

  return (logprobs.tokens ?? []).map((token, i) => ({
    token,
    logprob: logprobs.token_logprobs[i],
    top: Object.entries(logprobs.top_logprobs?.[i] ?? {}).map(([t, logprob]) => ({ token: t, logprob })).sort((a, b) => b.logprob - a.logprob),
  }));
}

const asText = turn => [`> ${turn.prompt.replaceAll("\n", "\n> ")}`, ...[...turn.answers.values()].map(a => `**${a.model}**\n\n${a.view.text}`)].join("\n\n");

function figuresText({ start, first, last, tokens, finish, surprise, scored }) {
  if (first === null) {
    return finish ?? "waiting";
  }

  const seconds = (last - first) / 1000;
  const parts = [tokens === 1 ? "1 token" : `${tokens} tokens`];
  if (tokens > 1 && seconds > 0) {
    parts.push(`${((tokens - 1) / seconds).toFixed(1)} tok/s`);
  }

  parts.push(`first in ${Math.round(first - start)} ms`);
  if (scored) {
    parts.push(`perplexity ${Math.exp(surprise / scored).toFixed(2)}`);
  }

  if (finish && finish !== "stop") {
    parts.push({ length: "cut", stopped: "stopped" }[finish] ?? finish);
  }

  return parts.join(" · ");
}

function isAtEnd() {
  const turns = byId("turns");
  return turns.scrollHeight - turns.scrollTop - turns.clientHeight < 40;
}
