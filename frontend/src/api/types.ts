/** Short names for the types of the API; all of them come from the generated schema. */
import type { components, operations } from "./schema";

type Schemas = components["schemas"];

export type RunSummary = Schemas["RunSummary"];
export type RunDetail = Schemas["RunDetail"];
export type RunState = RunSummary["state"];
export type RunKind = RunSummary["kind"];
export type Progress = Schemas["Progress"];
export type LineageRun = Schemas["LineageRun"];
export type ArtifactFile = Schemas["ArtifactFile"];
export type Dataset = Schemas["DatasetInfo"];
export type DatasetKind = Dataset["kind"];
export type Worker = Schemas["WorkerInfo"];
export type TokenInfo = Schemas["TokenInfo"];
export type CreatedToken = Schemas["CreatedToken"];
export type Scope = TokenInfo["scope"];
export type Preset = Schemas["PresetInfo"];
export type FormKind = Preset["kind"];
export type RunFilter = NonNullable<operations["list_runs"]["parameters"]["query"]>;

/** A run config as the form holds it; the server's JSON Schema describes its fields. */
export type Config = Record<string, unknown>;
