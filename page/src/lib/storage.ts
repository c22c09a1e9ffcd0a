// Conversations in this browser's IndexedDB: titles for the list, bodies read one at a time.
import { openDB, type DBSchema } from "idb";

import type { Conversation, Title } from "./types";

interface Schema extends DBSchema {
  titles: { key: string; value: Title };
  bodies: { key: string; value: Conversation };
}

const database = openDB<Schema>("halfbyte", 1, {
  upgrade(db) {
    db.createObjectStore("titles", { keyPath: "id" });
    db.createObjectStore("bodies", { keyPath: "id" });
  },
});

/** Tells other tabs which conversation changed; null: more than one. */
export const changes = new BroadcastChannel("halfbyte-conversations");

export async function loadTitles(): Promise<Title[]> {
  return (await database).getAll("titles");
}

export async function load(id: string): Promise<Conversation | undefined> {
  return (await database).get("bodies", id);
}

export async function loadAll(): Promise<Conversation[]> {
  return (await database).getAll("bodies");
}

export async function save(...conversations: Conversation[]): Promise<void> {
  const transaction = (await database).transaction(["titles", "bodies"], "readwrite");
  for (const conversation of conversations) {
    const { id, title, updated } = conversation;
    void transaction.objectStore("titles").put({ id, title, updated });
    void transaction.objectStore("bodies").put(conversation);
  }
  await transaction.done;
  changes.postMessage(conversations.length === 1 ? conversations[0]!.id : null);
}

export async function remove(id: string): Promise<void> {
  const transaction = (await database).transaction(["titles", "bodies"], "readwrite");
  void transaction.objectStore("titles").delete(id);
  void transaction.objectStore("bodies").delete(id);
  await transaction.done;
  changes.postMessage(id);
}

export async function clear(): Promise<void> {
  const transaction = (await database).transaction(["titles", "bodies"], "readwrite");
  void transaction.objectStore("titles").clear();
  void transaction.objectStore("bodies").clear();
  await transaction.done;
  changes.postMessage(null);
}
