// What a conversation is: a tree of messages, so that a retry or an edit keeps what it replaces.

export interface Stats {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  /** Milliseconds from sending to the first token, and to the last. */
  firstMs: number;
  totalMs: number;
}

export interface Message {
  id: string;
  parent: string | null;
  role: "user" | "assistant";
  text: string;
  created: number;
  /** What follows is of answers only. */
  state?: "running" | "done" | "stopped" | "cut" | "failed";
  model?: string;
  reasoning?: string;
  reasoningMs?: number;
  error?: string;
  stats?: Stats;
}

/** What the list of conversations shows. */
export interface Title {
  id: string;
  title: string;
  updated: number;
}

export interface Conversation extends Title {
  messages: Record<string, Message>;
  /** The last message of the branch that is shown. */
  head: string | null;
}
