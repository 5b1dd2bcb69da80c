/** The menus: one is open at a time, and a click elsewhere or Escape closes it. */

export function closeMenusByThemselves() {
  document.addEventListener("click", ({ target }) => closeMenus(target instanceof Node ? target : null));
  document.addEventListener("keydown", (event) => {
    const open = document.querySelector(".menu[open]");
    if (event.key !== "Escape" || !open) return;
    event.preventDefault();
    closeMenus(null);
    const summary = open.querySelector("summary");
    if (open.contains(document.activeElement)) summary?.focus();
  });
  // Tab leads out of a menu too.
  document.addEventListener("focusin", ({ target }) => closeMenus(target instanceof Node ? target : null));
}

/** @param {Node | null} around the menu around this stays open */
function closeMenus(around) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (menu instanceof HTMLDetailsElement && !(around && menu.contains(around))) menu.open = false;
  }
}
