/** What the states of a worker mean; pure. */
import type { Worker } from "@/api/types";

/** Whether the worker can take runs, now or after the one that it has. */
export function isConnected(worker: Worker): boolean {
  return worker.state === "idle" || worker.state === "busy";
}
