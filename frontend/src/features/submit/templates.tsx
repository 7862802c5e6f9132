/** The form's layout of objects, unions and fields. */
import {
  Alert,
  Collapse,
  Fieldset,
  Select,
  SimpleGrid,
  Stack,
  Text,
  Title,
  UnstyledButton,
} from "@mantine/core";
import type {
  FieldErrorProps,
  FieldProps,
  FieldTemplateProps,
  ObjectFieldTemplateProps,
  TemplatesType,
} from "@rjsf/utils";
import { IconChevronRight } from "@tabler/icons-react";
import { useRef, useState } from "react";
import { isRecord } from "@/lib/pointer";
import { hasErrors } from "./extraErrors";
import { chosenOption, fill, type Node, optionUi, tagOf } from "./schema";
import { IntegersField } from "./widgets";

/** Sections that are collapsed at first. */
const ADVANCED = new Set(["optimiser", "evaluation", "reporting", "masking", "lines"]);
const STAGES = new Set(["teacher", "prune", "distill"]);

function PlainField({ children, hidden, id }: FieldTemplateProps) {
  return (
    <div data-field={id} style={hidden ? { display: "none" } : { minWidth: 0 }}>
      {children}
    </div>
  );
}

function isUnion(schema: unknown): boolean {
  return isRecord(schema) && Array.isArray(schema.oneOf);
}

function isBlock(schema: unknown): boolean {
  return isUnion(schema) || (isRecord(schema) && schema.type === "object");
}

function isRequiredUnion(schema: unknown): boolean {
  return isUnion(schema) && isRecord(schema) && schema.default === undefined;
}

/**
 * The fields of an object: first required unions (without a default), then plain fields in columns,
 * then other unions and sections at full width.
 */
function Fields({ props }: { props: ObjectFieldTemplateProps }) {
  const schemas = props.schema.properties ?? {};
  const shown = props.properties.filter((property) => !property.hidden);
  const leaves = shown.filter((property) => !isBlock(schemas[property.name]));
  const required = shown.filter((property) => isRequiredUnion(schemas[property.name]));
  const optional = shown.filter((property) => !required.includes(property));
  const unions = optional.filter((property) => isUnion(schemas[property.name]));
  const sections = optional.filter(
    (property) => isBlock(schemas[property.name]) && !unions.includes(property),
  );
  return (
    <Stack gap="md">
      {required.map((property) => (
        <div key={property.name}>{property.content}</div>
      ))}
      {leaves.length > 0 && (
        <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }} spacing="md" verticalSpacing="sm">
          {leaves.map((property) => (
            <div key={property.name}>{property.content}</div>
          ))}
        </SimpleGrid>
      )}
      {[...unions, ...sections].map((property) => (
        <div key={property.name}>{property.content}</div>
      ))}
    </Stack>
  );
}

function Errors({ props }: { props: ObjectFieldTemplateProps }) {
  const own = props.errorSchema?.__errors ?? [];
  if (own.length === 0) return null;
  return (
    <Alert color="red" variant="light" p="xs" id={props.fieldPathId.$id} tabIndex={-1}>
      {own.join("; ")}
    </Alert>
  );
}

function AdvancedSection({ props }: { props: ObjectFieldTemplateProps }) {
  const [opened, setOpened] = useState(false);
  const invalid = hasErrors(props.errorSchema);
  const expanded = opened || invalid;
  const panel = `${props.fieldPathId.$id}__panel`;
  return (
    <Fieldset p={0} variant="unstyled">
      <UnstyledButton
        onClick={() => setOpened(!expanded)}
        aria-expanded={expanded}
        aria-controls={panel}
        py={4}
        w="100%"
        data-section={props.fieldPathId.$id}
      >
        <Text size="sm" fw={550} component="span">
          <IconChevronRight
            size={14}
            aria-hidden
            style={{
              transform: expanded ? "rotate(90deg)" : undefined,
              transition: "transform 120ms",
              verticalAlign: -2,
              marginRight: 4,
            }}
          />
          {props.title}{" "}
          <Text span size="xs" c="dimmed" fw={400}>
            {props.schema.description}
          </Text>
        </Text>
      </UnstyledButton>
      <Collapse expanded={expanded} id={panel}>
        <Stack gap="sm" pt="xs" pb="sm" pl={18}>
          <Errors props={props} />
          <Fields props={props} />
        </Stack>
      </Collapse>
    </Fieldset>
  );
}

function ObjectTemplate(props: ObjectFieldTemplateProps) {
  const path = props.fieldPathId.path;
  const name = String(path.at(-1) ?? "");
  const isOption = "x-option" in props.schema;
  if (path.length === 0 || isOption) {
    return (
      <Stack gap="sm">
        <Errors props={props} />
        <Fields props={props} />
      </Stack>
    );
  }
  if (path.length === 1 && STAGES.has(name)) {
    return (
      <Stack gap="sm" component="section" aria-label={props.title} className="stage" pt="xs">
        <div>
          <Title order={2} size="h4">
            {props.title}
          </Title>
          <Text size="sm" c="dimmed">
            {props.schema.description}
          </Text>
        </div>
        <Errors props={props} />
        <Fields props={props} />
      </Stack>
    );
  }
  if (ADVANCED.has(name)) return <AdvancedSection props={props} />;
  return (
    <Fieldset legend={props.title} p="sm">
      <Stack gap="sm">
        {props.schema.description && (
          <Text size="xs" c="dimmed">
            {props.schema.description}
          </Text>
        )}
        <Errors props={props} />
        <Fields props={props} />
      </Stack>
    </Fieldset>
  );
}

/** The errors below a field; its own are already shown by the select. */
function withoutOwn(errors: FieldProps["errorSchema"]): FieldProps["errorSchema"] {
  if (!errors) return errors;
  const { __errors: _, ...below } = errors;
  return below as FieldProps["errorSchema"];
}

/** A tagged union: a select of its options, then the fields of the selected one. */
function UnionField(props: FieldProps) {
  const { schema, formData, fieldPathId, registry, errorSchema } = props;
  const union = schema as Node;
  const tag = union.tag ?? "";
  const options = (union.oneOf ?? []) as Node[];
  const option = chosenOption(union, formData);
  // The input of each option is kept, so that switching back restores it.
  const drafts = useRef(new Map<string, unknown>());
  const SchemaField = registry.fields.SchemaField;
  const own = errorSchema?.__errors ?? [];

  const choose = (next: string | null) => {
    const target = options.find((one) => tagOf(one, tag) === next);
    if (!target || !option) return;
    drafts.current.set(tagOf(option, tag), formData);
    props.onChange(drafts.current.get(tagOf(target, tag)) ?? fill(target), fieldPathId.path);
  };

  if (!option || !SchemaField) return null;
  const empty = Object.values(option.properties ?? {}).every(
    (child) => isRecord(child) && child.const !== undefined,
  );
  return (
    <Fieldset legend={union.title} p="sm">
      <Stack gap="sm">
        <Select
          id={fieldPathId.$id}
          aria-label={union.title}
          description={
            // The option's description changes with the selection.
            [union.description, option.description].filter(Boolean).join(" ")
          }
          data={options.map((one) => ({ value: tagOf(one, tag), label: one.title ?? "" }))}
          value={tagOf(option, tag)}
          onChange={choose}
          allowDeselect={false}
          error={own.length > 0 ? own.join("; ") : undefined}
          disabled={props.disabled || props.readonly}
          maw={420}
        />
        {!empty && (
          <SchemaField
            {...props}
            key={tagOf(option, tag)}
            schema={{ ...option, "x-option": true } as Node}
            uiSchema={optionUi(option)}
            errorSchema={withoutOwn(errorSchema)}
          />
        )}
      </Stack>
    </Fieldset>
  );
}

/** Errors are shown by the inputs themselves. */
function NoErrors(_: FieldErrorProps) {
  return null;
}

export const templates: Partial<TemplatesType> = {
  FieldTemplate: PlainField,
  ObjectFieldTemplate: ObjectTemplate,
  FieldErrorTemplate: NoErrors,
};

export const fields = { union: UnionField, integers: IntegersField };
