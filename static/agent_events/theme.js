// Light or dark by choice, before anything is painted: hence a plain script in the head, and no module. The choice is
// kept under the name and with the values that Django's admin keeps its own: "auto", "light" or "dark".
{
  let theme = null;
  try {
    theme = localStorage.getItem("theme");
  } catch {
    // No storage here: as the system is.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
