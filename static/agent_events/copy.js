/** Copying text, also where the Clipboard API is missing: it exists on https and localhost only. */

const SHOWN_MS = 1_500;

/**
 * @param {string | HTMLElement} source text, or what has it @param {HTMLElement | null} [button] tells how it went
 * @returns {Promise<boolean>} whether it is copied
 */
export async function copyText(source, button = null) {
  const text = typeof source === "string" ? source : (source.textContent ?? "");
  const done = (await byApi(text)) || bySelection(text);
  if (!button) return done;
  const label = button.dataset.label ?? button.textContent ?? "";
  button.dataset.label = label;
  button.textContent = done ? "Copied" : "Select and copy by hand";
  setTimeout(() => (button.textContent = label), SHOWN_MS);
  return done;
}

/** @param {string} text */
async function byApi(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not there, or not allowed: the older way follows.
    return false;
  }
}

/** @param {string} text */
function bySelection(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
