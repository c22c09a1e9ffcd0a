// The state behind the page: the open conversation, the list, the models, and the answers that are running.
import { ApiError, listModels, streamChat, type Turn } from "./api";
import { settings } from "./settings.svelte";
import * as storage from "./storage";
import { branch, newestLeaf } from "./tree";
import type { Conversation, Message, Title } from "./types";

// Tokens come faster than a screen is worth redrawing, and far faster than a disk is worth writing.
const REDRAW_MS = 40;
const SAVE_MS = 2000;
const RECONNECT_MS = 3000;

type Server = "connecting" | "ready" | "locked" | "away";

export interface Notice {
  text: string;
  action?: { label: string; run: () => void };
}

class Chat {
  titles = $state<Title[]>([]);
  current = $state<Conversation>(fresh());
  models = $state<string[]>([]);
  server = $state<Server>("connecting");
  notice = $state<Notice | null>(null);
  /** Conversation -> what ends its running answer. */
  runs = $state<Record<string, AbortController>>({});
  /** Conversations with a running answer stay in memory when another one is shown. */
  #live = new Map<string, Conversation>();
  #noticeTimer = 0;
  #connectTimer = 0;

  model = $derived(this.models.includes(settings.model) ? settings.model : (this.models[0] ?? ""));
  running = $derived(this.current.id in this.runs);
  path = $derived(branch(this.current));

  async start(): Promise<void> {
    storage.changes.onmessage = (event: MessageEvent<string | null>) => void this.#changedElsewhere(event.data);
    addEventListener("hashchange", () => void this.open(location.hash.slice(1)));
    void this.connect();
    await this.#stored(async () => {
      this.titles = sorted(await storage.loadTitles());
      await this.open(location.hash.slice(1));
    });
  }

  /** Asks for the models; goes on asking while the server does not answer. */
  async connect(): Promise<void> {
    clearTimeout(this.#connectTimer);
    try {
      this.models = await listModels(settings.key);
      this.server = "ready";
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      if (status === 401 || status === 403) this.server = "locked";
      else this.#away();
    }
  }

  #away(): void {
    this.server = "away";
    clearTimeout(this.#connectTimer);
    this.#connectTimer = setTimeout(() => void this.connect(), RECONNECT_MS);
  }

  new(): void {
    this.current = fresh();
    if (location.hash) history.pushState(null, "", location.pathname + location.search);
  }

  async open(id: string): Promise<void> {
    if (id === this.current.id) return;
    if (!id) return this.new();
    const found = this.#live.get(id) ?? (await storage.load(id));
    if (!found) {
      history.replaceState(null, "", location.pathname + location.search);
      return this.new();
    }
    if (!this.#live.has(id)) markCut(found);
    this.current = found;
    if (location.hash.slice(1) !== id) location.hash = id;
  }

  send(text: string): void {
    this.#ask(this.current, this.current.head, text);
  }

  /** Asks again with another text; the old question and its answers stay as another version. */
  edit(message: Message, text: string): void {
    this.#ask(this.current, message.parent, text);
  }

  /** Another answer to the same question. */
  retry(message: Message): void {
    void this.#answer(this.current, message.parent);
  }

  stop(): void {
    this.runs[this.current.id]?.abort();
  }

  show(version: Message): void {
    this.current.head = newestLeaf(this.current, version.id);
    void this.#save(this.current);
  }

  async rename(id: string, title: string): Promise<void> {
    await this.#change(id, (conversation) => {
      conversation.title = title.trim() || conversation.title;
    });
  }

  async remove(id: string): Promise<void> {
    this.runs[id]?.abort();
    await this.#stored(async () => {
      const kept = this.#live.get(id) ?? (await storage.load(id));
      this.#live.delete(id);
      await storage.remove(id);
      this.titles = this.titles.filter((title) => title.id !== id);
      if (this.current.id === id) this.new();
      if (!kept) return;
      const copy = $state.snapshot(kept) as Conversation;
      this.tell("Conversation deleted.", { label: "Undo", run: () => void this.take([copy]) });
    });
  }

  /** Adds conversations (from a file, or deleted ones taken back). */
  async take(conversations: Conversation[]): Promise<void> {
    await this.#stored(async () => {
      await storage.save(...conversations);
      this.titles = sorted(await storage.loadTitles());
    });
  }

  async removeAll(): Promise<void> {
    for (const run of Object.values(this.runs)) run.abort();
    await this.#stored(async () => {
      this.#live.clear();
      await storage.clear();
      this.titles = [];
      this.new();
    });
  }

  tell(text: string, action?: Notice["action"]): void {
    clearTimeout(this.#noticeTimer);
    this.notice = { text, action };
    this.#noticeTimer = setTimeout(() => (this.notice = null), action ? 8000 : 4000);
  }

  #ask(conversation: Conversation, parent: string | null, text: string): void {
    const question: Message = { id: newId(), parent, role: "user", text, created: now() };
    conversation.messages[question.id] = question;
    conversation.head = question.id;
    if (!conversation.title) conversation.title = titleOf(text);
    void this.#answer(conversation, question.id);
  }

  async #answer(conversation: Conversation, parent: string | null): Promise<void> {
    const turns = branch(conversation, parent).map(({ role, text }): Turn => ({ role, content: text }));
    if (settings.system.trim()) turns.unshift({ role: "system", content: settings.system });
    const id = newId();
    conversation.messages[id] = {
      id, parent, role: "assistant", text: "", created: now(), state: "running", model: this.model,
    }; // prettier-ignore
    conversation.head = id;
    conversation.updated = Date.now();
    const answer = conversation.messages[id]!;
    const abort = new AbortController();
    this.runs[conversation.id] = abort;
    this.#live.set(conversation.id, conversation);
    if (conversation === this.current) history.replaceState(null, "", `#${conversation.id}`);
    await this.#save(conversation);
    const saving = setInterval(() => void this.#save(conversation), SAVE_MS);
    try {
      await this.#stream(answer, { model: answer.model, messages: turns, ...settings.request() }, abort.signal);
    } catch (error) {
      answer.state = abort.signal.aborted ? "stopped" : "failed";
      if (answer.state === "failed") this.#failed(answer, error);
    }
    clearInterval(saving);
    delete this.runs[conversation.id];
    // Deleted meanwhile: it must not come back.
    if (this.#live.delete(conversation.id)) await this.#save(conversation);
  }

  async #stream(answer: Message, request: Record<string, unknown>, signal: AbortSignal): Promise<void> {
    const start = performance.now();
    const since = () => performance.now() - start;
    let [text, reasoning, tokens, firstMs, reasoningMs, drawn] = ["", "", 0, 0, 0, 0];
    const draw = () => {
      drawn = since();
      Object.assign(answer, { text, reasoning, reasoningMs });
      if (firstMs) answer.stats = { promptTokens: 0, cachedTokens: 0, completionTokens: tokens, firstMs, totalMs: since() };
    };
    try {
      for await (const delta of streamChat(request, settings.key, signal)) {
        if (delta.text || delta.reasoning) {
          firstMs ||= since();
          tokens += 1;
        }
        if (delta.reasoning) reasoningMs = since() - firstMs;
        reasoning += delta.reasoning ?? "";
        text += delta.text ?? "";
        if (delta.finish) answer.state = delta.finish === "length" ? "cut" : "done";
        if (since() - drawn > REDRAW_MS) draw();
        if (!delta.usage) continue;
        draw();
        answer.stats = {
          promptTokens: delta.usage.prompt_tokens,
          cachedTokens: delta.usage.prompt_tokens_details?.cached_tokens ?? 0,
          completionTokens: delta.usage.completion_tokens,
          firstMs: firstMs || since(),
          totalMs: since(),
        };
      }
    } finally {
      if (!answer.stats?.promptTokens) draw();
    }
    if (answer.state === "running") answer.state = "done";
  }

  #failed(answer: Message, error: unknown): void {
    answer.error = error instanceof Error ? error.message : String(error);
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) this.server = "locked";
    if (error instanceof ApiError && error.status === 0) this.#away();
  }

  async #change(id: string, change: (conversation: Conversation) => void): Promise<void> {
    await this.#stored(async () => {
      const conversation = id === this.current.id ? this.current : (this.#live.get(id) ?? (await storage.load(id)));
      if (!conversation) return;
      change(conversation);
      await this.#save(conversation);
    });
  }

  async #save(conversation: Conversation): Promise<void> {
    const { id, title, updated } = conversation;
    this.titles = sorted([{ id, title, updated }, ...this.titles.filter((other) => other.id !== id)]);
    await this.#stored(() => storage.save($state.snapshot(conversation) as Conversation));
  }

  /** A browser that keeps nothing (private windows, a full disk) still chats. */
  async #stored(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.tell(`This browser does not keep the conversation: ${error instanceof Error ? error.message : error}`);
    }
  }

  async #changedElsewhere(id: string | null): Promise<void> {
    this.titles = sorted(await storage.loadTitles());
    const shown = this.current.id;
    if ((id !== null && id !== shown) || this.#live.has(shown)) return;
    const found = await storage.load(shown);
    if (found && this.current.id === shown) this.current = found;
  }
}

function fresh(): Conversation {
  return { id: newId(), title: "", updated: Date.now(), messages: {}, head: null };
}

// crypto.randomUUID is missing where the page comes over plain HTTP from another machine.
function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

let latest = 0;
/** Milliseconds, and never the same twice: versions are told apart by it. */
function now(): number {
  latest = Math.max(Date.now(), latest + 1);
  return latest;
}

function titleOf(text: string): string {
  const line = text.trim().split("\n")[0] ?? "";
  return line.length > 60 ? `${line.slice(0, 60).trimEnd()}…` : line;
}

function sorted(titles: Title[]): Title[] {
  return titles.sort((a, b) => b.updated - a.updated);
}

/** An answer that was running when its page was closed has ended. */
function markCut(conversation: Conversation): void {
  for (const message of Object.values(conversation.messages)) if (message.state === "running") message.state = "stopped";
}

export const chat = new Chat();
