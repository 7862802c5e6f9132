/** The states of workers; pure. */
import type { Worker } from "@/api/types";

/** Whether the worker can take runs, now or after its current one. */
export function isConnected(worker: Worker): boolean {
  return worker.state === "idle" || worker.state === "busy";
}
