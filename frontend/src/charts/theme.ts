/** Chart colours for the light and dark schemes; distinguishable for colour-blind readers. */

export interface ChartTheme {
  text: string;
  muted: string;
  grid: string;
  surface: string;
  palette: string[];
  font: string;
}

// Plotly measures text itself and needs a real list of families, not a CSS variable.
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

const LIGHT: ChartTheme = {
  text: "#2b3138",
  muted: "#5f6b76",
  grid: "#e4e8ec",
  surface: "#ffffff",
  palette: ["#1c6e8c", "#d9772b", "#7b5bb5", "#2f8f5b", "#b8446c", "#857b2a"],
  font: FONT,
};

const DARK: ChartTheme = {
  text: "#d5dade",
  muted: "#98a2ab",
  grid: "#343a40",
  surface: "#25292d",
  palette: ["#5cb8d6", "#f0a25f", "#b49ae6", "#6cc79a", "#e88bab", "#cdc26a"],
  font: FONT,
};

export function chartTheme(scheme: "light" | "dark"): ChartTheme {
  return scheme === "dark" ? DARK : LIGHT;
}
