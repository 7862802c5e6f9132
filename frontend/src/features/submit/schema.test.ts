import { describe, expect, it } from "vitest";
import { hasErrors, parseProperty, placeProblems, toErrorTree, unsettled } from "./extraErrors";
import { copyName, pipelineConfig, referenceConfig } from "./prefill";
import { fill, type Node, prepareSchema, titleInWords } from "./schema";
import { findProblems } from "./validator";
import { parseIntegers, roleOf } from "./widgets";

/** A piece of the server's schema, as pydantic writes it. */
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
const whole = () => fill(schema) as Record<string, Record<string, unknown>>;
const problems = (data: unknown) =>
  findProblems(schema, data).map((one) => [one.property, one.message]);

describe("prepareSchema", () => {
  it("gives unions titles and hides what only the command line may say", () => {
    const model = schema.properties?.model as Node;
    expect((model.oneOf as Node[]).map((one) => one.title)).toEqual([
      "Random weights",
      "A run on this server",
    ]);
    expect(uiSchema.model?.["ui:field"]).toBe("union");
  });
  it("hides constants and draws nullable numbers as numbers", () => {
    expect(uiSchema.kind?.["ui:widget"]).toBe("hidden");
    expect(uiSchema.optimiser?.clip_norm?.["ui:widget"]).toBe("number");
  });
  it("writes titles in words", () => {
    expect(titleInWords("Seq Len")).toBe("Sequence length");
    expect(titleInWords("learning_rate")).toBe("Learning rate");
    expect(titleInWords("Beta1")).toBe("Adam β₁");
  });
});

describe("fill", () => {
  it("takes defaults from the nearest parent, null included", () => {
    expect(whole()).toEqual({
      kind: "teacher",
      model: { source: "scratch", layers: 6 },
      optimiser: { learning_rate: 5e-4, clip_norm: null },
      layers: [0, 2],
    });
  });
  it("keeps what is given and completes the rest", () => {
    const data = fill(schema, { model: { source: "run", run_id: "k3v9x2m4q8zt" } }) as never;
    expect(data).toMatchObject({
      model: { source: "run", run_id: "k3v9x2m4q8zt" },
      layers: [0, 2],
    });
  });
});

describe("the validator", () => {
  it("accepts the defaults", () => expect(problems(whole())).toEqual([]));
  it("names the deepest field once, in words", () => {
    const data = whole();
    data.model = { source: "scratch", layers: 0 };
    data.optimiser = { learning_rate: "fast", clip_norm: null };
    expect(problems(data)).toEqual([
      [".model.layers", "must be at least 1"],
      [".optimiser.learning_rate", "must be a number"],
    ]);
  });
  it("asks for fields that were emptied instead of letting the default slip in", () => {
    const data = whole();
    data.optimiser = { clip_norm: null };
    expect(problems(data)).toEqual([[".optimiser.learning_rate", "fill this in"]]);
  });
  it("looks only at the chosen option of a union", () => {
    const data = whole();
    data.model = { source: "run", run_id: "NOT" };
    expect(problems(data)).toEqual([[".model.run_id", "is not written like k3v9x2m4q8zt"]]);
    data.model = { source: "run" };
    expect(problems(data)).toEqual([[".model.run_id", "choose one"]]);
  });
});

describe("the server's problems", () => {
  const data = { model: { source: "scratch", heads: 3 } };
  const placed = placeProblems([{ pointer: "/config/model/heads", detail: "do not divide" }], data);
  it("land at their field", () => {
    expect(toErrorTree(placed)).toEqual({ model: { heads: { __errors: ["do not divide"] } } });
    expect(hasErrors(toErrorTree(placed))).toBe(true);
    expect(hasErrors({ model: {} })).toBe(false);
  });
  it("go when the field changes, and not before", () => {
    expect(unsettled(placed, { model: { ...data.model, layers: 2 } })).toHaveLength(1);
    expect(unsettled(placed, { model: { ...data.model, heads: 4 } })).toHaveLength(0);
  });
  it("are read from RJSF's paths", () => {
    expect(parseProperty(".layers.layers[1]")).toEqual(["layers", "layers", 1]);
  });
});

describe("prefill", () => {
  it("makes a pipeline's config from its runs, without the links", () => {
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
  it("counts copies", () => {
    expect(copyName("base")).toBe("base (2)");
    expect(copyName("base (2)")).toBe("base (3)");
  });
});

describe("widgets", () => {
  it("reads lists of whole numbers", () => {
    expect(parseIntegers("0, 2 4")).toEqual([0, 2, 4]);
    expect(parseIntegers("0, x")).toBeNull();
  });
  it("knows the role of a run reference", () => {
    expect(roleOf("root_teacher_run_id")).toBe("teacher");
    expect(roleOf("root_teacher_model_run_id")).toBe("model");
  });
});
