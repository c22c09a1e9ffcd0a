// The server's OpenAI endpoints, as far as the page needs them.
import { events } from "./sse";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export interface Turn {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number } | null;
}

/** One event of a streamed answer, reduced to what is shown. */
export interface Delta {
  text?: string;
  reasoning?: string;
  finish?: string;
  usage?: Usage;
}

export async function listModels(key: string): Promise<string[]> {
  const answer = await call("v1/models", key, { signal: AbortSignal.timeout(10_000) });
  const list = (await answer.json()) as { data?: { id: string }[] };
  return (list.data ?? []).map((model) => model.id);
}

export async function* streamChat(
  request: Record<string, unknown>,
  key: string,
  signal: AbortSignal,
): AsyncGenerator<Delta> {
  const answer = await call("v1/chat/completions", key, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!answer.body) throw new ApiError(answer.status, "The server sent an empty answer.");
  try {
    for await (const data of events(answer.body)) {
      if (data === "[DONE]") return;
      yield readChunk(data);
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError(0, "The connection to the server was lost.");
  }
  throw new ApiError(answer.status, "The server ended the answer before it was complete.");
}

function readChunk(data: string): Delta {
  const chunk = JSON.parse(data) as {
    error?: { message?: string; code?: number };
    choices?: { delta?: Record<string, string | null>; finish_reason?: string | null }[];
    usage?: Usage | null;
  };
  if (chunk.error) throw new ApiError(500, chunk.error.message ?? "The server reported an error.");
  const choice = chunk.choices?.[0];
  return {
    text: choice?.delta?.content ?? undefined,
    reasoning: choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? undefined,
    finish: choice?.finish_reason ?? undefined,
    usage: chunk.usage ?? undefined,
  };
}

/** Addresses are relative to the page, so that it works below a path of a reverse proxy too. */
async function call(path: string, key: string, options: RequestInit): Promise<Response> {
  const headers = new Headers(options.headers);
  if (key) headers.set("authorization", `Bearer ${key}`);
  let answer: Response;
  try {
    answer = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted && (options.signal.reason as Error)?.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  const body = await answer.text();
  throw new ApiError(answer.status, messageOf(body) ?? `The server answered ${answer.status} ${answer.statusText}.`);
}

function messageOf(body: string): string | undefined {
  try {
    const parsed = JSON.parse(body) as { error?: { message?: string } | string; detail?: string };
    return (typeof parsed.error === "string" ? parsed.error : parsed.error?.message) ?? parsed.detail;
  } catch {
    return undefined;
  }
}
