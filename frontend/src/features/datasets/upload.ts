/** Uploads one file; uses XMLHttpRequest, since fetch does not report upload progress. */
import { idempotencyKey, releaseKey } from "@/api/idempotency";
import { ApiProblem, toProblem } from "@/api/problem";
import type { Dataset, DatasetKind } from "@/api/types";

export interface Upload {
  promise: Promise<Dataset>;
  cancel: () => void;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Starts the upload; `onProgress` gets the share that has been sent, 0 to 1. */
export function upload(file: File, kind: DatasetKind, onProgress: (share: number) => void): Upload {
  const request = new XMLHttpRequest();
  const key = idempotencyKey(
    JSON.stringify(["upload", kind, file.name, file.size, file.lastModified]),
  );
  const promise = new Promise<Dataset>((resolve, reject) => {
    const body = new FormData();
    // The kind precedes the file: the server needs it when it starts to read the file.
    body.append("kind", kind);
    body.append("name", file.name);
    body.append("file", file);
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    request.onload = () => {
      releaseKey(key, request.status);
      const result = parse(request.responseText);
      if (request.status >= 200 && request.status < 300) resolve(result as Dataset);
      else reject(toProblem(request.status, result));
    };
    request.onerror = () =>
      reject(
        new ApiProblem(
          0,
          "No connection",
          "The upload failed: the connection to the server was lost.",
        ),
      );
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.open("POST", "/api/v1/datasets");
    request.setRequestHeader("Idempotency-Key", key);
    request.send(body);
  });
  return { promise, cancel: () => request.abort() };
}
