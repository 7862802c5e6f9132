/** The tab's title. */
import { useEffect } from "react";

/** Shows `title` in the tab as long as the component is there. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = title ? `${title} · Halflayer` : "Halflayer";
  }, [title]);
}
