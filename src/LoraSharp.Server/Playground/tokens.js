// An answer as a row of tokens that can be looked at: how likely each was and what else was likely.
import { announce, byId, make } from "./dom.js";

const percent = log => {
  const p = 100 * Math.exp(log);
  return p >= 99.95 ? "100 %" : p >= 10 ? `${p.toFixed(0)} %` : p >= 1 ? `${p.toFixed(1)} %` : p >= 0.01 ? `${p.toFixed(2)} %` : "< 0.01 %";
};

// Shading goes by surprise, -log2 p: half is nothing, one in a hundred is much.
const shadedBits = 7;
const bits = score => -score.logprob / Math.LN2;

const visible = text => (text === "" ? "∅" : text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣"));

/** Text that comes in pieces. A piece may be of several tokens: bytes of one letter, or text held back for a stop string. */
export class TokenText {
  #host;
  #held = [];
  #scores = new Map();
  #current = null;

  constructor(host) {
    this.#host = host;
    host.addEventListener("pointerover", event => this.#look(event.target.closest(".tok")));
    host.addEventListener("pointerleave", hidePeek);
    host.addEventListener("keydown", event => this.#step(event));
    host.addEventListener("blur", () => this.#mark(null));
  }

  get text() {
    return this.#host.textContent;
  }

  add(text, scores) {
    this.#held.push(...scores);
    if (text === "") {
      return;
    }

    if (this.#held.length === 0) {
      this.#host.append(text);
      return;
    }

    const token = make("span", { class: "tok" }, text);
    token.style.setProperty("--surprise", Math.min(1, Math.max(...this.#held.map(bits)) / shadedBits).toFixed(3));
    this.#scores.set(token, this.#held);
    this.#held = [];
    this.#host.append(token);
    this.#host.tabIndex = 0;
  }

  #look(token) {
    if (token) {
      showPeek(token, this.#scores.get(token));
    }
  }

  #step(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape" && this.#current) {
      this.#mark(null);
      event.stopPropagation();
    }

    if (step === undefined) {
      return;
    }

    const tokens = [...this.#scores.keys()];
    const next = this.#current ? tokens[tokens.indexOf(this.#current) + step] : tokens[step > 0 ? 0 : tokens.length - 1];
    if (next) {
      event.preventDefault();
      this.#mark(next);
      announce(this.#scores.get(next).map(score => `${score.token}, ${percent(score.logprob)}. ${score.top.filter(t => t.token !== score.token).slice(0, 2).map(t => `${t.token} ${percent(t.logprob)}`).join(", ")}`).join("; "));
    }
  }

  #mark(token) {
    this.#current?.classList.remove("current");
    this.#current = token;
    if (token) {
      token.classList.add("current");
      this.#look(token);
    } else {
      hidePeek();
    }
  }
}

export function hidePeek() {
  byId("peek").hidden = true;
}

function showPeek(token, scores) {
  const peek = byId("peek");
  peek.replaceChildren(...scores.map(score => {
    const rows = score.top.some(t => t.token === score.token && t.logprob === score.logprob) ? score.top : [...score.top, { token: score.token, logprob: score.logprob }];
    return make("table", {}, make("caption", {}, make("b", {}, visible(score.token)), ` ${percent(score.logprob)}`), make("tbody", {}, ...rows.map(t => {
      const bar = make("i", {});
      bar.style.setProperty("--p", Math.exp(t.logprob).toFixed(4));
      return make("tr", t.logprob === score.logprob ? { class: "chosen" } : {}, make("td", {}, visible(t.token)), make("td", {}, bar), make("td", {}, percent(t.logprob)));
    })));
  }));
  peek.hidden = false;
  const at = token.getClientRects()[0];
  const box = peek.getBoundingClientRect();
  const above = at.bottom + box.height + 12 > innerHeight;
  peek.style.left = `${Math.max(8, Math.min(at.left - 12, innerWidth - box.width - 8))}px`;
  peek.style.top = `${above ? Math.max(8, at.top - box.height - 6) : at.bottom + 6}px`;
}
