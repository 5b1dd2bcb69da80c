/** Copying text, also where the Clipboard API is missing: it exists on https and localhost only. */

const SHOWN_MS = 1_500;

/** @param {HTMLElement} source whose text is copied @param {HTMLButtonElement} button tells how it went */
export async function copyText(source, button) {
  const done = (await byApi(source.textContent)) || bySelection(source);
  const label = button.dataset.label ?? button.textContent;
  button.dataset.label = label;
  button.textContent = done ? "Copied" : "Select and copy by hand";
  setTimeout(() => (button.textContent = label), SHOWN_MS);
}

async function byApi(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not there, or not allowed: the older way follows.
    return false;
  }
}

function bySelection(source) {
  const selection = getSelection();
  selection.selectAllChildren(source);
  return document.execCommand("copy");
}
