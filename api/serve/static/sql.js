// The SQL console's shortcuts; the form works without them.
"use strict";

for (const form of document.querySelectorAll("form[data-sql]")) {
  const text = form.querySelector("textarea");
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener("submit", () => {
    const button = form.querySelector("button");
    button.disabled = true;
    button.textContent = "Running";
  });
  // Coming back to this page shows it as it was left, button and all.
  addEventListener("pageshow", () => {
    const button = form.querySelector("button");
    button.disabled = false;
    button.textContent = "Run";
  });
}
