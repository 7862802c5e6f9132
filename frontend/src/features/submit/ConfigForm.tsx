/** The form for one config: rendered from the server's schema, validated here, submitted by the caller. */
import { Alert, Anchor, Button, Group, List, Text } from "@mantine/core";
// The package's index also exports a test helper that needs the ajv validator; the form alone does not.
import Form, { type IChangeEvent } from "@rjsf/core/lib/components/Form.js";
import type { RJSFValidationError } from "@rjsf/utils";
import { useEffect, useMemo, useRef, useState } from "react";
import { ApiProblem, messageOf } from "@/api/problem";
import type { Config } from "@/api/types";
import { type Path, valueAt } from "@/lib/pointer";
import {
  elementId,
  type LocatedProblem,
  locateProblems,
  parseProperty,
  toErrorTree,
  unresolved,
} from "./extraErrors";
import { fill, type Node, prepareSchema, titleInWords } from "./schema";
import { fields, templates } from "./templates";
import { validator } from "./validator";
import { widgets } from "./widgets";

interface ConfigFormProps {
  serverSchema: Node;
  /** The initial values; later changes are ignored (use a new `key` instead). */
  initial: Config | undefined;
  onChange: (config: Config) => void;
  /** Sends the config; throws an ApiProblem if the server rejects it. */
  onSubmit: (config: Config) => Promise<void>;
  submitLabel: string;
}

/** Scrolls to a field and focuses it, after a delay in which its section can open. */
function focusField(path: Path): void {
  const find = () => {
    for (let end = path.length; end > 0; end -= 1) {
      const element = document.getElementById(elementId(path.slice(0, end)));
      if (element) return element;
    }
    return null;
  };
  window.setTimeout(() => {
    const element = find();
    element?.scrollIntoView({ block: "center" });
    element?.focus({ preventScroll: true });
  }, 60);
}

function Summary({ problems, general }: { problems: LocatedProblem[]; general: string | null }) {
  if (problems.length === 0 && !general) return null;
  return (
    <Alert
      className="problems"
      color="red"
      role="alert"
      title={
        general ??
        (problems.length === 1 ? "One field is invalid" : `${problems.length} fields are invalid`)
      }
    >
      <List size="sm" spacing={2}>
        {problems.map((one) => (
          <List.Item key={`${one.path.join("/")}:${one.detail}`}>
            {one.path.length > 0 ? (
              <Anchor
                component="button"
                type="button"
                size="sm"
                c="inherit"
                underline="always"
                onClick={() => focusField(one.path)}
              >
                {one.path.map((part) => titleInWords(String(part))).join(" › ")}
              </Anchor>
            ) : (
              <Text span size="sm" fw={500}>
                Form
              </Text>
            )}
            : {one.detail}
          </List.Item>
        ))}
      </List>
    </Alert>
  );
}

export function ConfigForm(props: ConfigFormProps) {
  const { serverSchema, initial, onChange, onSubmit, submitLabel } = props;
  const prepared = useMemo(() => prepareSchema(serverSchema), [serverSchema]);
  const [data, setData] = useState<Config>(() => fill(prepared.schema, initial) as Config);
  const [clientProblems, setClientProblems] = useState<LocatedProblem[]>([]);
  const [serverProblems, setServerProblems] = useState<LocatedProblem[]>([]);
  const [general, setGeneral] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const focusNext = useRef<Path | null>(null);
  const extraErrors = useMemo(() => toErrorTree(serverProblems), [serverProblems]);

  useEffect(() => {
    const path = focusNext.current;
    if (!path) return;
    focusNext.current = null;
    focusField(path);
  });

  const change = (event: IChangeEvent<Config>) => {
    const next = event.formData ?? {};
    setData(next);
    setServerProblems((current) => unresolved(current, next));
    setClientProblems((current) => unresolved(current, next));
    setGeneral(null);
    onChange(next);
  };

  const showInvalid = (errors: RJSFValidationError[]) => {
    const problems = errors
      // RJSF also lists the server's problems, without a rule name; those are shown already.
      .filter((error) => error.name !== undefined)
      .map((error) => {
        const path = parseProperty(error.property);
        return { path, detail: error.message ?? "is not valid", value: valueAt(data, path) };
      });
    setClientProblems(problems);
    focusNext.current = problems[0]?.path ?? serverProblems[0]?.path ?? null;
  };

  const send = async (config: Config) => {
    setBusy(true);
    setClientProblems([]);
    setServerProblems([]);
    setGeneral(null);
    try {
      await onSubmit(config);
    } catch (error) {
      const problems = error instanceof ApiProblem ? locateProblems(error.errors, config) : [];
      setServerProblems(problems);
      if (problems.length === 0) setGeneral(messageOf(error));
      focusNext.current = problems.find((one) => one.path.length > 0)?.path ?? null;
    } finally {
      setBusy(false);
    }
  };

  return (
    <Form<Config>
      schema={prepared.schema}
      uiSchema={prepared.uiSchema}
      formData={data}
      validator={validator}
      widgets={widgets}
      fields={fields}
      templates={templates}
      extraErrors={extraErrors as never}
      extraErrorsBlockSubmit={false}
      experimental_defaultFormStateBehavior={{ emptyObjectFields: "skipDefaults" }}
      showErrorList={false}
      noHtml5Validate
      onChange={change}
      onSubmit={(event) => void send(event.formData ?? {})}
      onError={showInvalid}
    >
      <Group className="submit-bar" align="flex-end" justify="space-between">
        <Summary problems={[...clientProblems, ...serverProblems]} general={general} />
        <Button type="submit" loading={busy} size="md" ml="auto">
          {submitLabel}
        </Button>
      </Group>
    </Form>
  );
}
