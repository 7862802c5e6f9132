/** Saves form input in the browser, so that it is not lost when the user leaves the page. */
import type { Config, FormKind } from "@/api/types";
import { isRecord } from "@/lib/pointer";

export interface Draft {
  name: string;
  config: Config;
  /** The URL where it was typed; there it takes precedence over the preset or run of the URL. */
  origin?: string;
}

const key = (kind: FormKind) => `halflayer.draft.${kind}`;

/** The draft of a form; null if there is none or it cannot be read. */
export function loadDraft(kind: FormKind): Draft | null {
  try {
    const stored: unknown = JSON.parse(window.localStorage.getItem(key(kind)) ?? "null");
    if (!isRecord(stored) || !isRecord(stored.config)) return null;
    return {
      name: typeof stored.name === "string" ? stored.name : "",
      config: stored.config,
      origin: typeof stored.origin === "string" ? stored.origin : undefined,
    };
  } catch {
    return null;
  }
}

export function saveDraft(kind: FormKind, draft: Draft): void {
  try {
    window.localStorage.setItem(key(kind), JSON.stringify(draft));
  } catch {
    // Storage is full or disabled: the form still works, but its input is not saved.
  }
}

export function dropDraft(kind: FormKind): void {
  try {
    window.localStorage.removeItem(key(kind));
  } catch {
    // See saveDraft.
  }
}
