import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

/** The API that `npm run dev` talks to. */
const api = process.env.HALFLAYER_SERVER ?? "http://127.0.0.1:8000";

export default defineConfig({
  plugins: [react()],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  server: { proxy: { "/api": { target: api, changeOrigin: true } } },
  build: {
    target: "es2022",
    // Part of the Python package, which serves it.
    outDir: "../app/web/page",
    emptyOutDir: true,
    // Plotly is one chunk of its own and comes only with the first chart.
    chunkSizeWarningLimit: 1300,
    // The content security policy allows no data: scripts and fonts; keep every asset a file.
    assetsInlineLimit: 0,
  },
  test: { include: ["src/**/*.test.{ts,tsx}"], environment: "node" },
});
