// Walks over a conversation's tree of messages.
import type { Conversation, Message } from "./types";

/** The branch that is shown, oldest message first. */
export function branch(conversation: Conversation, head = conversation.head): Message[] {
  const path: Message[] = [];
  for (let id = head; id !== null; ) {
    const message: Message | undefined = conversation.messages[id];
    if (!message) break;
    path.push(message);
    id = message.parent;
  }
  return path.reverse();
}

/** The message and the other versions of it, oldest first. */
export function versions(conversation: Conversation, message: Message): Message[] {
  return children(conversation, message.parent);
}

/** The end of the newest branch below a message. */
export function newestLeaf(conversation: Conversation, id: string): string {
  const below = children(conversation, id);
  const last = below[below.length - 1];
  return last ? newestLeaf(conversation, last.id) : id;
}

function children(conversation: Conversation, parent: string | null): Message[] {
  return Object.values(conversation.messages)
    .filter((message) => message.parent === parent)
    .sort((a, b) => a.created - b.created);
}
