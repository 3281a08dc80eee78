// The list of adapters; loading and unloading while answers run.
import { post } from "./api.js";
import { announce, byId, make } from "./dom.js";

const few = 12;
const mostShown = 100;

export class AdapterPanel {
  #refresh;
  #compare;
  #adapters = [];
  #mayChange = false;

  /** refresh: reads the models again; compare: puts an adapter beside the others. */
  constructor(refresh, compare) {
    this.#refresh = refresh;
    this.#compare = compare;
    byId("adapter-filter").addEventListener("input", () => this.#list());
    byId("load-form").addEventListener("submit", event => {
      event.preventDefault();
      this.#load(event.target);
    });
  }

  draw(adapters, mayChange) {
    this.#adapters = adapters;
    this.#mayChange = mayChange;
    byId("load-box").hidden = !mayChange;
    byId("adapter-filter").hidden = adapters.length <= few;
    this.#list();
  }

  #list() {
    const wanted = byId("adapter-filter").value.trim().toLowerCase();
    const found = this.#adapters.filter(a => a.id.toLowerCase().includes(wanted));
    const more = found.length > mostShown ? [make("li", { class: "hint" }, `and ${found.length - mostShown} more`)] : [];
    byId("adapters").replaceChildren(...found.slice(0, mostShown).map(a => make("li", {},
      make("button", { type: "button", class: "name", title: a.root ?? "", onclick: () => this.#compare(a.id) }, a.id),
      make("small", {}, [a.rank ? `r ${a.rank}` : "", a.loaded === false ? "not loaded" : ""].filter(Boolean).join(" · ")),
      this.#mayChange ? make("button", { type: "button", class: "quiet icon", "aria-label": `Unload ${a.id}`, title: "Unload", onclick: () => this.#unload(a.id) }, "×") : "")), ...more);
    if (this.#adapters.length === 0) {
      byId("adapters").append(make("li", { class: "hint" }, "None yet: the base answers alone."));
    }
  }

  async #load(form) {
    const button = form.querySelector("button");
    const name = byId("load-name").value.trim();
    button.disabled = true;
    button.textContent = "Loading";
    const done = await this.#change("v1/load_lora_adapter", { lora_name: name, lora_path: byId("load-path").value.trim() });
    button.disabled = false;
    button.textContent = "Load";
    if (done) {
      form.reset();
      announce(`${name} is loaded`);
      this.#compare(name);
    }
  }

  async #unload(name) {
    if (await this.#change("v1/unload_lora_adapter", { lora_name: name })) {
      announce(`${name} is unloaded`);
    }
  }

  async #change(path, body) {
    const fault = byId("adapter-fault");
    fault.hidden = true;
    try {
      await post(path, body, true);
      await this.#refresh();
      return true;
    } catch (error) {
      fault.textContent = error.message;
      fault.hidden = false;
      byId("keys-box").open ||= error.status === 401 || error.status === 403;
      return false;
    }
  }
}
