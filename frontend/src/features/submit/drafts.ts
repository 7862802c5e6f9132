/** Keeps what was typed into a form in the browser, so that leaving the page loses nothing. */
import type { Config, FormKind } from "@/api/types";
import { isRecord } from "@/lib/pointer";

export interface Draft {
  name: string;
  config: Config;
  /** The address at which it was typed: there it wins over the preset or run that one began with. */
  origin?: string;
}

const key = (kind: FormKind) => `halflayer.draft.${kind}`;

/** The draft of a form; null if there is none or it cannot be read. */
export function loadDraft(kind: FormKind): Draft | null {
  try {
    const held: unknown = JSON.parse(window.localStorage.getItem(key(kind)) ?? "null");
    if (!isRecord(held) || !isRecord(held.config)) return null;
    return {
      name: typeof held.name === "string" ? held.name : "",
      config: held.config,
      origin: typeof held.origin === "string" ? held.origin : undefined,
    };
  } catch {
    return null;
  }
}

export function saveDraft(kind: FormKind, draft: Draft): void {
  try {
    window.localStorage.setItem(key(kind), JSON.stringify(draft));
  } catch {
    // Storage is full or switched off: the form still works, it is only not remembered.
  }
}

export function dropDraft(kind: FormKind): void {
  try {
    window.localStorage.removeItem(key(kind));
  } catch {
    // See saveDraft.
  }
}
