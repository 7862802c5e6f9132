/** The Mantine theme: dense, system fonts only. */
import { createTheme, type MantineColorsTuple } from "@mantine/core";

const lake: MantineColorsTuple = [
  "#eaf6fa",
  "#d6eaf1",
  "#aad4e3",
  "#7bbdd5",
  "#55aac9",
  "#3d9ec2",
  "#2c93ba",
  "#1f7fa3",
  "#1c6e8c",
  "#0a5c78",
];

const ORDER = ["label", "input", "description", "error"];

export const theme = createTheme({
  primaryColor: "lake",
  primaryShade: { light: 8, dark: 6 },
  colors: { lake },
  fontFamily: 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif',
  fontFamilyMonospace: 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace',
  defaultRadius: "sm",
  focusRing: "auto",
  cursorType: "pointer",
  respectReducedMotion: true,
  components: {
    // Hints below the inputs keep the inputs of a row on one line.
    TextInput: { defaultProps: { inputWrapperOrder: ORDER } },
    Select: { defaultProps: { inputWrapperOrder: ORDER } },
    Paper: { defaultProps: { withBorder: true, p: "md" } },
    // Badges are never truncated; the table around them scrolls instead.
    Badge: { styles: { root: { flexShrink: 0, minWidth: "max-content" } } },
    Tooltip: { defaultProps: { withArrow: true, openDelay: 200 } },
  },
});
