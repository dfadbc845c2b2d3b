// Says under a field for credits how the site reads what is typed; the site's own parser reads it.
"use strict";

for (const field of document.querySelectorAll("input[data-reads-at]")) {
  const shown = document.getElementById(`${field.id}_read`);
  let asked = 0;
  field.addEventListener("input", async () => {
    const mine = ++asked;
    const text = field.value.trim();
    if (text === "") {
      shown.textContent = "";
      return;
    }
    let said;
    try {
      const answer = await fetch(`${field.dataset.readsAt}?${new URLSearchParams({ text })}`);
      said = answer.ok ? await answer.json() : { text: "" };
    } catch {
      said = { text: "" }; // without the network the form itself still says how it was read
    }
    if (mine === asked) shown.textContent = said.text;
  });
}
