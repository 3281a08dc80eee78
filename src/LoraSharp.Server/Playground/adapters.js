// The list of adapters; loading and unloading while answers run.
import { post } from "./api.js";
import { announce, byId, make } from "./dom.js";

export class AdapterPanel {
  #refresh;
  #compare;

  /** refresh: reads the models again; compare: puts an adapter beside the others. */
  constructor(refresh, compare) {
    this.#refresh = refresh;
    this.#compare = compare;
    byId("load-form").addEventListener("submit", event => {
      event.preventDefault();
      this.#load(event.target);
    });
  }

  draw(adapters, mayChange) {
    byId("load-box").hidden = !mayChange;
    byId("adapters").replaceChildren(...adapters.map(a => make("li", {},
      make("button", { type: "button", class: "name", title: a.root ?? "", onclick: () => this.#compare(a.id) }, a.id),
      make("small", {}, [a.rank ? `r ${a.rank}` : "", a.loaded === false ? "not loaded" : ""].filter(Boolean).join(" · ")),
      mayChange ? make("button", { type: "button", class: "quiet icon", "aria-label": `Unload ${a.id}`, title: "Unload", onclick: () => this.#unload(a.id) }, "×") : "")));
    if (adapters.length === 0) {
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
