// The few things of the document that every other module needs.

export const byId = id => document.getElementById(id);

/** Makes an element: make("p", { class: "hint", title: "x", onclick: f }, "text", child). */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }

  element.append(...children);
  return element;
}

/** Says something to those who listen to the page. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** What is remembered from visit to visit; storage can be forbidden, the page works without. */
export const memory = {
  read(key, otherwise) {
    try {
      return JSON.parse(localStorage.getItem(key)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  write(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      // Forgotten, then.
    }
  },
};

/** Copies a text and says so on the button for a moment. */
export async function copy(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Without https, browsers have a clipboard on localhost only.
    button.textContent = "No clipboard here";
  }

  announce(button.textContent);
  setTimeout(() => { button.textContent = label; }, 1500);
}

export function compact(number) {
  return number >= 1e6 ? `${(number / 1e6).toFixed(1)}M` : number >= 1e4 ? `${(number / 1e3).toFixed(0)}k` : number >= 1e3 ? `${(number / 1e3).toFixed(1)}k` : `${number}`;
}
