/** Idempotency keys for POST requests: a retry sends the same key until a response arrives. */

const pending = new Map<string, string>();

/** The key for a request, given as its URL and body; new unless the last response was lost. */
export function idempotencyKey(request: string): string {
  const known = pending.get(request);
  if (known) return known;
  // Not crypto.randomUUID: browsers offer it in secure contexts only, not over plain http.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  pending.set(request, key);
  return key;
}

/** Drops a key after its response; a 5xx may come from a proxy that lost the response. */
export function releaseKey(key: string | null, status: number): void {
  if (status >= 500) return;
  for (const [request, pendingKey] of pending) if (pendingKey === key) pending.delete(request);
}
