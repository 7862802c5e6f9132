// Sets the colour scheme before the first paint; a file, since the policy allows no inline script.
(() => {
  let choice = null;
  try {
    choice = window.localStorage.getItem("mantine-color-scheme-value");
  } catch {
    // Storage may be disabled; then the system setting applies.
  }
  const dark =
    choice === "dark" ||
    (choice !== "light" && window.matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.setAttribute("data-mantine-color-scheme", dark ? "dark" : "light");
})();
