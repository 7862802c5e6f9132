/** The routes of the app; without a session they redirect to the sign-in page. */
import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
  redirect,
} from "@tanstack/react-router";
import { sessionQuery } from "@/api/queries";
import type { FormKind, RunKind, RunState } from "@/api/types";
import { LoginPage } from "@/features/session/LoginPage";
import { ErrorPage, LoadingPage, NotFoundPage } from "./pages";
import { Shell } from "./Shell";

const STATES: RunState[] = [
  "waiting",
  "queued",
  "running",
  "cancelling",
  "succeeded",
  "failed",
  "cancelled",
  "skipped",
];
const KINDS: RunKind[] = ["teacher", "prune", "distill"];
const FORM_KINDS: FormKind[] = ["pipeline", ...KINDS];

function oneOf<T extends string>(value: unknown, allowed: readonly T[]): T | undefined {
  return allowed.find((one) => one === value);
}

function text(value: unknown): string | undefined {
  // The router parses search values as JSON: an id of digits arrives as a number.
  if (typeof value === "number") return String(value);
  return typeof value === "string" && value !== "" ? value : undefined;
}

const rootRoute = createRootRouteWithContext<{ queryClient: QueryClient }>()({
  component: Outlet,
  notFoundComponent: NotFoundPage,
});

const loginRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/login",
  validateSearch: (search): { next?: string } => ({ next: text(search.next) }),
  component: LoginPage,
});

const shellRoute = createRoute({
  getParentRoute: () => rootRoute,
  id: "shell",
  beforeLoad: async ({ context, location }) => {
    const session = await context.queryClient.ensureQueryData(sessionQuery);
    if (!session) throw redirect({ to: "/login", search: { next: location.href } });
  },
  component: Shell,
});

const runsRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/",
  validateSearch: (search): { state?: RunState; kind?: RunKind; q?: string; page?: number } => ({
    state: oneOf(search.state, STATES),
    kind: oneOf(search.kind, KINDS),
    q: text(search.q),
    page: Number(search.page) > 1 ? Math.floor(Number(search.page)) : undefined,
  }),
  component: lazyRouteComponent(() => import("@/features/runs/RunListPage"), "RunListPage"),
});

const runsAliasRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/runs",
  beforeLoad: () => {
    throw redirect({ to: "/", replace: true });
  },
});

const newRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/new",
  validateSearch: (
    search,
  ): {
    kind?: FormKind;
    from?: string;
    pipeline?: string;
    preset?: string;
    teacher?: string;
    student?: string;
  } => ({
    kind: oneOf(search.kind, FORM_KINDS),
    from: text(search.from),
    pipeline: text(search.pipeline),
    preset: text(search.preset),
    teacher: text(search.teacher),
    student: text(search.student),
  }),
  component: lazyRouteComponent(() => import("@/features/submit/NewRunPage"), "NewRunPage"),
});

const runRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/runs/$runId",
  component: lazyRouteComponent(() => import("@/features/run/RunPage"), "RunPage"),
});

const datasetsRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/datasets",
  component: lazyRouteComponent(() => import("@/features/datasets/DatasetsPage"), "DatasetsPage"),
});

const workersRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/workers",
  component: lazyRouteComponent(() => import("@/features/workers/WorkersPage"), "WorkersPage"),
});

const tokensRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/tokens",
  component: lazyRouteComponent(() => import("@/features/tokens/TokensPage"), "TokensPage"),
});

const routeTree = rootRoute.addChildren([
  loginRoute,
  shellRoute.addChildren([
    runsRoute,
    runsAliasRoute,
    newRoute,
    runRoute,
    datasetsRoute,
    workersRoute,
    tokensRoute,
  ]),
]);

export function createAppRouter(queryClient: QueryClient) {
  return createRouter({
    routeTree,
    context: { queryClient },
    defaultPreload: "intent",
    scrollRestoration: true,
    defaultErrorComponent: ErrorPage,
    defaultPendingComponent: LoadingPage,
    defaultNotFoundComponent: NotFoundPage,
  });
}
