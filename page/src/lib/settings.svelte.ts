// What the person has set, kept in localStorage: sampling, instructions, theme, key, model.

export interface Sampler {
  key: string;
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
}

/** Every sampler setting of the page; each is sent only when set, else the server's own default holds. */
export const SAMPLERS: Sampler[] = [
  { key: "temperature", label: "Temperature", hint: "0 always takes the likeliest token", min: 0, max: 2, step: 0.05 },
  { key: "top_p", label: "Top P", hint: "the likeliest tokens of this mass", min: 0, max: 1, step: 0.01 },
  { key: "top_k", label: "Top K", hint: "only the K likeliest tokens; 0 is off", min: 0, max: 200, step: 1 },
  { key: "min_p", label: "Min P", hint: "at least this likely, beside the best", min: 0, max: 1, step: 0.01 },
  { key: "repeat_penalty", label: "Repeat penalty", hint: "above 1 avoids repetition", min: 0.8, max: 2, step: 0.01 },
  { key: "presence_penalty", label: "Presence penalty", hint: "on tokens used before", min: -2, max: 2, step: 0.1 },
  { key: "frequency_penalty", label: "Frequency penalty", hint: "grows with every use", min: -2, max: 2, step: 0.1 },
  { key: "max_tokens", label: "Longest answer", hint: "in tokens", min: 1, max: 8192, step: 1 },
  { key: "seed", label: "Seed", hint: "the same seed gives the same answer", min: 0, max: 2 ** 31 - 1, step: 1 },
];

export type Theme = "auto" | "light" | "dark";

class Settings {
  theme = $state<Theme>("auto");
  key = $state("");
  model = $state("");
  system = $state("");
  stop = $state("");
  sampling = $state<Record<string, number | null>>({});

  constructor() {
    try {
      Object.assign(this, JSON.parse(localStorage.getItem("halfbyte") ?? "{}"));
    } catch {
      // Damaged settings are the same as none.
    }
  }

  /** Call once, in a component: writes every change and applies the theme. */
  keep(): void {
    $effect(() => {
      const { theme, key, model, system, stop, sampling } = this;
      document.documentElement.dataset.theme = theme;
      try {
        localStorage.setItem("halfbyte", JSON.stringify({ theme, key, model, system, stop, sampling }));
      } catch {
        // A browser that keeps nothing forgets the settings with the page.
      }
    });
  }

  /** The request fields that were set. */
  request(): Record<string, unknown> {
    const fields = Object.entries(this.sampling).filter(([, value]) => value !== null && Number.isFinite(value));
    const stop = this.stop.split("\n").filter((line) => line !== "");
    return { ...Object.fromEntries(fields), ...(stop.length > 0 && { stop }) };
  }

  reset(): void {
    this.sampling = {};
    this.stop = "";
  }
}

export const settings = new Settings();
