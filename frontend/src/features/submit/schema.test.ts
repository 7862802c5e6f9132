import { describe, expect, it } from "vitest";
import { hasErrors, locateProblems, parseProperty, toErrorTree, unresolved } from "./extraErrors";
import { copyName, pipelineConfig, referenceConfig } from "./prefill";
import { fill, type Node, prepareSchema, titleInWords } from "./schema";
import { findProblems } from "./validator";
import { parseIntegers, roleOf } from "./widgets";

/** A part of the server's schema, as pydantic writes it. */
const SERVER: Node = {
  $defs: {
    Scratch: {
      title: "ScratchModel",
      type: "object",
      properties: {
        source: { const: "scratch", default: "scratch", type: "string", title: "Source" },
        layers: { type: "integer", minimum: 1, maximum: 96, default: 4, title: "Layers" },
      },
    },
    Run: {
      title: "RunCheckpoint",
      type: "object",
      properties: {
        source: { const: "run", default: "run", type: "string", title: "Source" },
        run_id: {
          type: "string",
          pattern: "^[a-z0-9]{12}$",
          examples: ["k3v9x2m4q8zt"],
          title: "Run Id",
        },
      },
      required: ["run_id"],
    },
    Folder: {
      title: "FolderCheckpoint",
      type: "object",
      properties: { source: { const: "folder", type: "string" }, path: { type: "string" } },
    },
    Optimiser: {
      title: "Optimiser",
      type: "object",
      properties: {
        learning_rate: {
          type: "number",
          exclusiveMinimum: 0,
          maximum: 1,
          default: 0.1,
          title: "Learning Rate",
        },
        clip_norm: {
          anyOf: [{ type: "number", exclusiveMinimum: 0 }, { type: "null" }],
          default: 1,
          title: "Clip Norm",
        },
      },
    },
  },
  type: "object",
  properties: {
    kind: { const: "teacher", default: "teacher", type: "string" },
    model: {
      title: "Model",
      oneOf: [{ $ref: "#/$defs/Scratch" }, { $ref: "#/$defs/Run" }, { $ref: "#/$defs/Folder" }],
      discriminator: { propertyName: "source" },
      default: { source: "scratch", layers: 6 },
    },
    optimiser: { $ref: "#/$defs/Optimiser", default: { learning_rate: 5e-4, clip_norm: null } },
    layers: { type: "array", items: { type: "integer", minimum: 0 }, minItems: 1, default: [0, 2] },
  },
} as unknown as Node;

const { schema, uiSchema } = prepareSchema(SERVER);
const defaults = () => fill(schema) as Record<string, Record<string, unknown>>;
const problems = (data: unknown) =>
  findProblems(schema, data).map((one) => [one.property, one.message]);

describe("prepareSchema", () => {
  it("titles the options of unions and hides those of the command line", () => {
    const model = schema.properties?.model as Node;
    expect((model.oneOf as Node[]).map((one) => one.title)).toEqual([
      "Random weights",
      "A run on this server",
    ]);
    expect(uiSchema.model?.["ui:field"]).toBe("union");
  });
  it("hides constants and renders nullable numbers as numbers", () => {
    expect(uiSchema.kind?.["ui:widget"]).toBe("hidden");
    expect(uiSchema.optimiser?.clip_norm?.["ui:widget"]).toBe("number");
  });
  it("makes titles from field names", () => {
    expect(titleInWords("Seq Len")).toBe("Sequence length");
    expect(titleInWords("learning_rate")).toBe("Learning rate");
    expect(titleInWords("Beta1")).toBe("Adam β₁");
  });
});

describe("fill", () => {
  it("takes defaults from the nearest parent, including null", () => {
    expect(defaults()).toEqual({
      kind: "teacher",
      model: { source: "scratch", layers: 6 },
      optimiser: { learning_rate: 5e-4, clip_norm: null },
      layers: [0, 2],
    });
  });
  it("keeps given values and fills in defaults for the rest", () => {
    const data = fill(schema, { model: { source: "run", run_id: "k3v9x2m4q8zt" } }) as never;
    expect(data).toMatchObject({
      model: { source: "run", run_id: "k3v9x2m4q8zt" },
      layers: [0, 2],
    });
  });
});

describe("the validator", () => {
  it("accepts the defaults", () => expect(problems(defaults())).toEqual([]));
  it("reports each problem once, at the deepest field", () => {
    const data = defaults();
    data.model = { source: "scratch", layers: 0 };
    data.optimiser = { learning_rate: "fast", clip_norm: null };
    expect(problems(data)).toEqual([
      [".model.layers", "must be at least 1"],
      [".optimiser.learning_rate", "must be a number"],
    ]);
  });
  it("requires emptied fields instead of using their defaults", () => {
    const data = defaults();
    data.optimiser = { clip_norm: null };
    expect(problems(data)).toEqual([[".optimiser.learning_rate", "is required"]]);
    const { layers: _, ...withoutLayers } = defaults();
    expect(problems(withoutLayers)).toEqual([[".layers", "is required"]]);
  });
  it("validates the selected option of a union only", () => {
    const data = defaults();
    data.model = { source: "run", run_id: "NOT" };
    expect(problems(data)).toEqual([[".model.run_id", "must look like k3v9x2m4q8zt"]]);
    data.model = { source: "run" };
    expect(problems(data)).toEqual([[".model.run_id", "is required"]]);
  });
});

describe("the server's problems", () => {
  const data = { model: { source: "scratch", heads: 3 } };
  const located = locateProblems(
    [{ pointer: "/config/model/heads", detail: "do not divide" }],
    data,
  );
  it("are shown at their field", () => {
    expect(toErrorTree(located)).toEqual({ model: { heads: { __errors: ["do not divide"] } } });
    expect(hasErrors(toErrorTree(located))).toBe(true);
    expect(hasErrors({ model: {} })).toBe(false);
  });
  it("are cleared when the field changes, and not before", () => {
    expect(unresolved(located, { model: { ...data.model, layers: 2 } })).toHaveLength(1);
    expect(unresolved(located, { model: { ...data.model, heads: 4 } })).toHaveLength(0);
  });
  it("are parsed from RJSF's paths", () => {
    expect(parseProperty(".layers.layers[1]")).toEqual(["layers", "layers", 1]);
  });
});

describe("prefill", () => {
  it("builds a pipeline's config from its runs, without their references", () => {
    const run = (kind: string, config: object) => ({ kind, config }) as never;
    const runs = [
      run("distill", { kind: "distill", teacher: {}, student: {}, corpus: {}, seed: 1 }),
      run("teacher", { kind: "teacher", seed: 2 }),
      run("prune", { kind: "prune", teacher: {}, seed: 3 }),
    ];
    expect(pipelineConfig(runs)).toEqual({
      teacher: { kind: "teacher", seed: 2 },
      prune: { seed: 3 },
      distill: { seed: 1 },
    });
    expect(pipelineConfig(runs.slice(1))).toBeNull();
  });
  it("refers to runs by their role", () => {
    expect(referenceConfig("distill", "a", "b")).toEqual({
      teacher: { source: "run", run_id: "a" },
      student: { source: "run", run_id: "b" },
    });
    expect(referenceConfig("prune", undefined, undefined)).toBeUndefined();
  });
  it("numbers copies", () => {
    expect(copyName("base")).toBe("base (2)");
    expect(copyName("base (2)")).toBe("base (3)");
  });
});

describe("widgets", () => {
  it("parses lists of integers", () => {
    expect(parseIntegers("0, 2 4")).toEqual([0, 2, 4]);
    expect(parseIntegers("0, x")).toBeNull();
  });
  it("finds the role of a run reference", () => {
    expect(roleOf("root_teacher_run_id")).toBe("teacher");
    expect(roleOf("root_teacher_model_run_id")).toBe("model");
  });
});
