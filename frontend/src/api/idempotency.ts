/** One Idempotency-Key for each thing to create: the same request again, until it is answered, has the same. */

const unanswered = new Map<string, string>();

/** The key of a request, which is all that it says; new, unless its last answer was lost. */
export function keyFor(request: string): string {
  const known = unanswered.get(request);
  if (known) return known;
  // Not randomUUID: browsers keep that from a page that came over plain http.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  unanswered.set(request, key);
  return key;
}

/** The request with this key was answered; a status of the 500s may come from a proxy that lost the answer. */
export function answered(key: string | null, status: number): void {
  if (status >= 500) return;
  for (const [request, its] of unanswered) if (its === key) unanswered.delete(request);
}
