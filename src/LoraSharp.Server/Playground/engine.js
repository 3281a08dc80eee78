// Live figures of the engine, and of the run folder that the server was started with.
import { get } from "./api.js";
import { Chart } from "./chart.js";
import { byId, compact, make } from "./dom.js";

const every = 1000;
const kept = 120;
const whole = value => compact(Math.round(value));
const rate = value => (value >= 100 ? whole(value) : value.toFixed(1));
const percent = v => `${v.toFixed(v > 0 && v < 10 ? 1 : 0)} %`;
const share = (part, whole) => (whole > 0 ? (100 * part) / whole : 0);
const ago = x => (x >= -0.5 ? "now" : `${Math.round(-x)} s ago`);

export class EnginePanel {
  #charts;
  #samples = [];
  #before = null;

  constructor() {
    const host = byId("charts");
    this.#charts = {
      rate: new Chart(host, "Tokens a second", { format: rate, xLabel: ago }),
      running: new Chart(host, "Requests", { format: whole, xLabel: ago }),
      cache: new Chart(host, "Cache in use", { format: percent, xLabel: ago }),
    };
    host.append(make("p", { class: "hint", id: "engine-facts" }));
  }

  add(status) {
    const before = this.#before;
    this.#before = status;
    const seconds = before ? status.uptime - before.uptime : 0;
    if (seconds < 0) {
      // Another server is there now.
      this.#samples = [];
      return;
    }

    this.#samples.push({
      at: status.uptime,
      rate: seconds > 0 ? (status.generated_tokens - before.generated_tokens) / seconds : 0,
      running: status.running,
      waiting: status.waiting,
      used: share(status.kv_blocks.used, status.kv_blocks.total),
      kept: share(status.kv_blocks.used + status.kv_blocks.cached, status.kv_blocks.total),
    });
    this.#samples.splice(0, this.#samples.length - kept);
    const points = name => this.#samples.map(s => ({ x: s.at - status.uptime, y: s[name] }));
    this.#charts.rate.draw([{ kind: "line", points: points("rate") }]);
    this.#charts.running.draw([{ kind: "line", points: points("running") }, { kind: "faint", points: points("waiting") }], `${status.running} running · ${status.waiting} waiting`);
    const newest = this.#samples.at(-1);
    this.#charts.cache.draw([{ kind: "line", points: points("used") }, { kind: "faint", points: points("kept") }], `${percent(newest.used)} · ${percent(newest.kept - newest.used)} kept`);
    byId("engine-facts").textContent = facts(status);
  }
}

export class TrainingPanel {
  #charts;
  #offset = 0;
  #run = null;
  #steps = [];
  #evaluations = [];

  constructor() {
    const host = byId("training");
    const step = x => `step ${x}`;
    this.#charts = {
      loss: new Chart(host, "Loss", { format: v => v.toFixed(3), zero: false, xLabel: step }),
      rate: new Chart(host, "Learning rate", { format: v => (v === 0 ? "0" : v.toExponential(1)), xLabel: step }),
      speed: new Chart(host, "Tokens a second", { format: rate, xLabel: step }),
    };
  }

  async poll() {
    byId("training").hidden = false;
    let run;
    try {
      run = await get(`training?after=${this.#offset}`, true);
    } catch (error) {
      byId("run-state").textContent = error.status === 401 || error.status === 403 ? "Shown with an admin key." : error.message;
      return;
    }

    if (this.#run !== run.run) {
      // Another run than before is told from its start.
      const first = this.#run === null;
      this.#run = run.run;
      if (!first) {
        this.#offset = 0;
        this.#steps = [];
        this.#evaluations = [];
        return;
      }
    }

    byId("run-name").textContent = run.run;
    if (run.offset < this.#offset || run.restarted) {
      this.#steps = [];
      this.#evaluations = [];
    }

    this.#offset = run.offset;
    for (const entry of run.entries) {
      (entry.eval_loss === undefined ? this.#steps : this.#evaluations).push(entry);
    }

    const last = this.#steps.at(-1);
    byId("run-state").textContent = !last ? "No step yet." : `Step ${last.step}${last.epoch ? ` · epoch ${last.epoch.toFixed(2)}` : ""} · loss ${last.loss?.toFixed(3) ?? "not a number"}${run.complete ? " · finished" : ""}`;
    if (run.entries.length > 0) {
      this.#draw();
    }
  }

  #draw() {
    const series = name => this.#steps.filter(s => typeof s[name] === "number").map(s => ({ x: s.step, y: s[name] }));
    const loss = series("loss");
    this.#charts.loss.draw([
      { kind: "faint", points: loss },
      { kind: "line", points: smooth(loss) },
      { kind: "dots", points: this.#evaluations.filter(e => typeof e.eval_loss === "number").map(e => ({ x: e.step, y: e.eval_loss })) },
    ]);
    this.#charts.rate.draw([{ kind: "line", points: series("learning_rate") }]);
    this.#charts.speed.draw([{ kind: "line", points: series("tokens_per_second") }]);
  }
}

/** Calls work once a second while the page is seen, one call at a time. */
export function poll(work) {
  const turn = async () => {
    if (document.visibilityState === "visible") {
      await work();
    }

    setTimeout(turn, every);
  };
  turn();
}

function facts({ adapters, prompt_tokens, shared_tokens, preemptions, training_share }) {
  const places = Object.entries(adapters).filter(([, count]) => count > 0).map(([place, count]) => `${count} ${{ device: "ready", host: "in memory", disk: "on disk" }[place]}`);
  return [
    places.length > 0 ? `Adapters: ${places.join(", ")}` : "",
    shared_tokens > 0 ? `${percent(share(shared_tokens, shared_tokens + prompt_tokens))} of prompt tokens found in the cache` : "",
    preemptions > 0 ? `${compact(preemptions)} preempted` : "",
    training_share > 0 ? `training takes ${percent(100 * training_share)} of the time` : "",
  ].filter(Boolean).join(" · ");
}

// Exponential mean over about a twentieth of the run, without the start's bias.
function smooth(points) {
  const keep = 1 - 1 / Math.max(1, Math.min(20, points.length / 20));
  let mean = 0;
  let weight = 0;
  return points.map(p => {
    mean = keep * mean + (1 - keep) * p.y;
    weight = keep * weight + (1 - keep);
    return { x: p.x, y: mean / weight };
  });
}
