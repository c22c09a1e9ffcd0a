// Builds the whole page into one index.html (scripts and styles inline), where the server looks for it.
// HALFBYTE_PAGE_OUT names another folder (the wheel's build does); `npm run dev` passes API calls on to a running server.
import { svelte, vitePreprocess } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";
import { viteSingleFile } from "vite-plugin-singlefile";

const server = process.env.HALFBYTE_SERVER ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [svelte({ preprocess: vitePreprocess() }), viteSingleFile({ removeViteModuleLoader: true })],
  build: {
    outDir: process.env.HALFBYTE_PAGE_OUT ?? "../python/halfbyte/server/page",
    emptyOutDir: false,
    target: "es2022",
  },
  server: { proxy: { "/v1": server } },
});
