// Copying, also where the page came over plain HTTP and the browser keeps its clipboard API back.

export async function copy(text: string): Promise<void> {
  try {
    return await navigator.clipboard.writeText(text);
  } catch {
    copyOldWay(text);
  }
}

function copyOldWay(text: string): void {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Copies and lets the button say so for a moment. */
export async function copyFrom(button: HTMLElement, text: string): Promise<void> {
  await copy(text);
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1500);
}
