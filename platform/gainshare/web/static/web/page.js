// Small helpers that pages opt into with data attributes: copy to the clipboard, ask before a form is sent.
"use strict";

const SELECTED = "This browser does not allow copying. The text is selected: press Ctrl+C (\u2318C on a Mac).";

for (const button of document.querySelectorAll("[data-copy]")) {
  const note = document.createElement("p"); // there from the start: screen readers announce what changes in it
  note.className = "small copy-note";
  note.setAttribute("role", "status");
  button.after(note);
  button.addEventListener("click", () => copy(document.querySelector(button.dataset.copy), note));
}

async function copy(source, note) {
  try {
    await navigator.clipboard.writeText(source.textContent); // absent where the site is not reached by HTTPS
    note.textContent = "Copied.";
  } catch {
    window.getSelection().selectAllChildren(source);
    note.textContent = SELECTED;
  }
}

for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!window.confirm(form.dataset.confirm)) event.preventDefault();
  });
}
