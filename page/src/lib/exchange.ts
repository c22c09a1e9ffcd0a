// Conversations as a file: written for keeping, read back with suspicion.
import type { Conversation, Message } from "./types";

export function download(name: string, conversations: Conversation[]): void {
  const text = JSON.stringify({ format: "halfbyte-conversations", version: 1, conversations }, null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The conversations of a file's text; throws a sentence when it is no such file. */
export function parse(text: string): Conversation[] {
  let file: { format?: unknown; conversations?: unknown };
  try {
    file = JSON.parse(text) as typeof file;
  } catch {
    throw new Error("This file is no JSON.");
  }
  if (file?.format !== "halfbyte-conversations" || !Array.isArray(file.conversations))
    throw new Error("This file holds no conversations: export makes such files.");
  return file.conversations.map(checked);
}

function checked(value: unknown): Conversation {
  const { id, title, updated, messages, head } = (value ?? {}) as Partial<Conversation>;
  const known = messages !== null && typeof messages === "object" && Object.entries(messages).every(isMessage);
  if (typeof id !== "string" || typeof title !== "string" || typeof updated !== "number" || !known || hasLoop(messages!))
    throw new Error("A conversation in this file is damaged.");
  return { id, title, updated, messages: messages!, head: typeof head === "string" && head in messages! ? head : null };
}

function isMessage([id, message]: [string, Message]): boolean {
  return (
    message?.id === id &&
    typeof message.text === "string" &&
    typeof message.created === "number" &&
    (message.parent === null || typeof message.parent === "string") &&
    (message.role === "user" || message.role === "assistant")
  );
}

/** Whether following parents from some message never ends. */
function hasLoop(messages: Record<string, Message>): boolean {
  const count = Object.keys(messages).length;
  return Object.values(messages).some((message) => {
    let steps = 0;
    for (let at: Message | undefined = message; at; at = at.parent === null ? undefined : messages[at.parent])
      if (++steps > count) return true;
    return false;
  });
}
