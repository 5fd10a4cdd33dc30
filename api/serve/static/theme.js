// Before the first paint: the theme that was chosen here, if one was.
try {
  const chosen = localStorage.getItem("lensbase-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be closed to us; the system's theme stays.
}
