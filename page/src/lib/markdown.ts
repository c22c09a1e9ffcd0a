// Markdown to safe HTML, block by block, so that a growing answer only redraws its last block.
import DOMPurify from "dompurify";
import { Marked, type Token, type Tokens } from "marked";

import { highlight } from "./highlight";

export interface Block {
  raw: string;
  /** TrustedHTML where the browser has it, a string elsewhere. */
  html: string;
}

// Tags that models write on purpose; any other is shown as text.
const KEPT_TAG = /^<\/?(br|sub|sup|kbd|u|mark|details|summary)\s*\/?>\s*$/i;

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => (KEPT_TAG.test(text) ? text : escape(text)),
    // Nothing is loaded from other hosts: an image is a link to it.
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    code({ text, lang }) {
      const language = (lang ?? "").split(/[\s,{:]/)[0] ?? "";
      return (
        `<div class="code"><div class="code-head"><span>${escape(language || "text")}</span>` +
        `<button type="button" class="copy-code">Copy</button></div>` +
        `<pre tabindex="0"><code>${highlight(text, language) ?? escape(text)}</code></pre></div>`
      );
    },
    table(token: Tokens.Table) {
      const row = (cells: Tokens.TableCell[], tag: string) =>
        `<tr>${cells.map((c) => `<${tag} class="${c.align ?? "left"}">${this.parser.parseInline(c.tokens)}</${tag}>`).join("")}</tr>`;
      const body = token.rows.map((cells) => row(cells, "td")).join("");
      return `<div class="table"><table><thead>${row(token.header, "th")}</thead><tbody>${body}</tbody></table></div>`;
    },
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
});

/** The blocks of a text; those whose source did not change are taken over from `before`. */
export function blocks(text: string, before: Block[]): Block[] {
  const tokens = marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
  return tokens.map((token, i) => {
    const old = before[i];
    return old?.raw === token.raw ? old : { raw: token.raw, html: render(token) };
  });
}

function render(token: Token): string {
  return DOMPurify.sanitize(marked.parser([token]), {
    USE_PROFILES: { html: true },
    FORBID_TAGS: ["style", "form", "img", "audio", "video", "picture", "source", "select", "textarea", "dialog"],
    FORBID_ATTR: ["style", "id", "name"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ADD_URI_SAFE_ATTR: ["start", "type", "checked", "disabled"], // where a list begins, and its boxes
    ALLOW_DATA_ATTR: false,
    RETURN_TRUSTED_TYPE: true,
  }) as unknown as string;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
