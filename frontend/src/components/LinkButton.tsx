/** A link within the app that looks like a button, with typed routes. */
import { Button, type ButtonProps } from "@mantine/core";
import { createLink } from "@tanstack/react-router";
import type { AnchorHTMLAttributes, Ref } from "react";

type Props = ButtonProps &
  Omit<AnchorHTMLAttributes<HTMLAnchorElement>, keyof ButtonProps> & {
    ref?: Ref<HTMLAnchorElement>;
  };

function AnchorButton(props: Props) {
  return <Button component="a" {...props} />;
}

export const LinkButton = createLink(AnchorButton);
