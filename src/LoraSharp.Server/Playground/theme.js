// A plain script in the head, so that a chosen theme is there before the first paint.
"use strict";
(() => {
  const themes = ["system", "light", "dark"];
  const marks = { system: "◐", light: "☀", dark: "☾" };
  const names = { system: "as the system", light: "light", dark: "dark" };
  let theme = "system";
  try {
    theme = themes.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system";
  } catch {
    // Storage can be forbidden; the page works without.
  }

  function apply() {
    if (theme === "system") {
      delete document.documentElement.dataset.theme;
    } else {
      document.documentElement.dataset.theme = theme;
    }

    const button = document.getElementById("toggle-theme");
    if (button) {
      button.textContent = marks[theme];
      button.setAttribute("aria-label", `Theme: ${names[theme]}`);
      button.title = `Theme: ${names[theme]}`;
    }
  }

  apply();
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("toggle-theme").addEventListener("click", () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // As above.
      }

      apply();
    });
  });
})();
