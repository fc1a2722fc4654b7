/**
 * What every event does to a key in every state: the table of the machine, one column an event. States that a column
 * does not mention stay as they are and nothing is said.
 *
 * @module
 */
import { assertEquals, assertThrows } from "@std/assert";
import { BugError } from "../../../base/assert.ts";
import {
  acquire,
  arrived,
  busy,
  cancelCompute,
  compute,
  dataAdded,
  failed,
  free,
  refresh,
  removeReplicas,
  removeWorker,
  rescheduled,
  resources,
  seceded,
  started,
  status,
  steal,
  succeeded,
  timer,
  unreachable,
  type Untimed,
  withdrawn,
  X_IN_STATE,
} from "../../support/machine.ts";

interface Column {
  readonly event: string;
  readonly make: () => Untimed;
  /** State of x, state of x after, instructions. */
  readonly changes: readonly (readonly [state: string, after: string, ...instructions: readonly string[]])[];
  /** States of x in which this cannot happen: our own shell or executor would have a bug. */
  readonly impossible?: readonly string[];
}

const STATES = Object.keys(X_IN_STATE);
const WITHOUT_RUN = STATES.filter((state) => !/placed|executing|long-running/.test(state));
const NOT_PLACED = STATES.filter((state) => !state.includes("placed"));
const NOT_IN_FLIGHT = STATES.filter((state) => !state.includes("flight"));

const TABLE: readonly Column[] = [
  {
    event: "compute-task",
    make: () => compute("x", { run: 9 }),
    changes: [
      ["unknown", "ready(placed)", "execute x#9"],
      ["released", "ready(placed)", "execute x#9"],
      ["fetch", "ready(placed)", "execute x#9"],
      ["missing", "ready(placed)", "execute x#9"],
      ["flight", "resumed(flight->waiting)"],
      ["memory", "memory", "task-finished x#9"],
      ["error", "ready(placed)", "execute x#9"],
      ["cancelled(flight)", "resumed(flight->waiting)"],
      ["cancelled(placed)", "resumed(placed->waiting)"],
      ["cancelled(executing)", "resumed(executing->waiting)"],
      ["cancelled(long-running)", "resumed(long-running->waiting)"],
      ["resumed(placed->fetch)", "resumed(placed->waiting)"],
      ["resumed(executing->fetch)", "resumed(executing->waiting)"],
      ["resumed(long-running->fetch)", "resumed(long-running->waiting)"],
    ],
  },
  {
    event: "compute-task of a task that needs x",
    make: () => compute("n", { run: 9, needs: { x: ["bob"] } }),
    changes: [
      ["unknown", "flight", "fetch bob x"],
      ["released", "flight", "fetch bob x"],
      ["fetch", "flight", "fetch bob x"],
      ["missing", "flight", "fetch bob x"],
      ["memory", "memory", "execute n#9 with x"],
      ["error", "flight", "fetch bob x"],
      ["cancelled(flight)", "flight"],
      ["cancelled(placed)", "resumed(placed->fetch)"],
      ["cancelled(executing)", "resumed(executing->fetch)"],
      ["cancelled(long-running)", "resumed(long-running->fetch)"],
    ],
  },
  {
    event: "acquire-replicas",
    make: () => acquire({ x: ["bob"] }),
    changes: [
      ["unknown", "flight", "fetch bob x"],
      ["released", "flight", "fetch bob x"],
      ["fetch", "flight", "fetch bob x"],
      ["missing", "flight", "fetch bob x"],
      ["memory", "memory", "add-keys x"],
      ["error", "flight", "fetch bob x"],
      ["cancelled(flight)", "flight"],
      ["cancelled(placed)", "resumed(placed->fetch)"],
      ["cancelled(executing)", "resumed(executing->fetch)"],
      ["cancelled(long-running)", "resumed(long-running->fetch)"],
    ],
  },
  {
    event: "free-keys",
    make: () => free("x"),
    changes: [
      ["waiting", "unknown"],
      ["ready", "unknown"],
      ["ready(placed)", "cancelled(placed)", "withdraw x#1"],
      ["constrained", "unknown"],
      ["constrained(placed)", "cancelled(placed)", "withdraw x#1"],
      ["executing", "cancelled(executing)", "abort x#1"],
      ["long-running", "cancelled(long-running)", "abort x#1"],
      ["memory", "unknown", "release-worker-data x", "free x"],
      ["error", "unknown"],
      ["resumed(flight->waiting)", "cancelled(flight)"],
      ["resumed(placed->waiting)", "cancelled(placed)"],
      ["resumed(executing->waiting)", "cancelled(executing)"],
      ["resumed(long-running->waiting)", "cancelled(long-running)"],
      ["resumed(placed->fetch)", "cancelled(placed)"],
      ["resumed(executing->fetch)", "cancelled(executing)"],
      ["resumed(long-running->fetch)", "cancelled(long-running)"],
    ],
  },
  {
    event: "remove-replicas",
    make: () => removeReplicas("x"),
    changes: [
      ["memory", "unknown", "release-worker-data x", "free x"],
    ],
  },
  {
    event: "steal-request",
    make: () => steal("x"),
    changes: [
      ["unknown", "unknown", "steal-response x null steal-1"],
      ["released", "released", "steal-response x null steal-1"],
      ["waiting", "unknown", "steal-response x waiting steal-1"],
      ["fetch", "fetch", "steal-response x null steal-1"],
      ["missing", "missing", "steal-response x null steal-1"],
      ["flight", "flight", "steal-response x null steal-1"],
      ["ready", "unknown", "steal-response x ready steal-1"],
      ["ready(placed)", "ready(placed)", "withdraw x#1"],
      ["constrained", "unknown", "steal-response x constrained steal-1"],
      ["constrained(placed)", "constrained(placed)", "withdraw x#1"],
      ["executing", "executing", "steal-response x executing steal-1"],
      ["long-running", "long-running", "steal-response x long-running steal-1"],
      ["memory", "memory", "steal-response x memory steal-1"],
      ["error", "error", "steal-response x null steal-1"],
      ["cancelled(flight)", "cancelled(flight)", "steal-response x cancelled steal-1"],
      ["cancelled(placed)", "cancelled(placed)", "steal-response x cancelled steal-1"],
      ["cancelled(executing)", "cancelled(executing)", "steal-response x cancelled steal-1"],
      ["cancelled(long-running)", "cancelled(long-running)", "steal-response x cancelled steal-1"],
      ["resumed(flight->waiting)", "resumed(flight->waiting)", "steal-response x resumed steal-1"],
      ["resumed(placed->waiting)", "resumed(placed->waiting)", "steal-response x resumed steal-1"],
      ["resumed(executing->waiting)", "resumed(executing->waiting)", "steal-response x resumed steal-1"],
      [
        "resumed(long-running->waiting)",
        "resumed(long-running->waiting)",
        "steal-response x resumed steal-1",
      ],
      ["resumed(placed->fetch)", "resumed(placed->fetch)", "steal-response x resumed steal-1"],
      ["resumed(executing->fetch)", "resumed(executing->fetch)", "steal-response x resumed steal-1"],
      ["resumed(long-running->fetch)", "resumed(long-running->fetch)", "steal-response x resumed steal-1"],
    ],
  },
  {
    event: "cancel-compute",
    make: () => cancelCompute("x"),
    changes: [
      ["waiting", "unknown"],
      ["ready", "unknown"],
      ["ready(placed)", "ready(placed)", "withdraw x#1"],
      ["constrained", "unknown"],
      ["constrained(placed)", "constrained(placed)", "withdraw x#1"],
    ],
  },
  {
    event: "refresh-who-has, nobody",
    make: () => refresh({ x: [] }),
    changes: [
      ["fetch", "missing", "set-timer find-missing +1000"],
    ],
  },
  {
    event: "refresh-who-has, bob",
    make: () => refresh({ x: ["bob"] }),
    changes: [
      ["fetch", "flight", "fetch bob x"],
      ["missing", "flight", "fetch bob x"],
    ],
  },
  {
    event: "remove-worker",
    make: () => removeWorker("alice"),
    changes: [
      ["unknown", "unknown", "forget-peer alice"],
      ["released", "released", "forget-peer alice"],
      ["waiting", "waiting", "forget-peer alice"],
      ["fetch", "missing", "forget-peer alice", "set-timer find-missing +1000"],
      ["missing", "missing", "forget-peer alice"],
      ["flight", "flight", "forget-peer alice"],
      ["ready", "ready", "forget-peer alice"],
      ["ready(placed)", "ready(placed)", "forget-peer alice"],
      ["constrained", "constrained", "forget-peer alice"],
      ["constrained(placed)", "constrained(placed)", "forget-peer alice"],
      ["executing", "executing", "forget-peer alice"],
      ["long-running", "long-running", "forget-peer alice"],
      ["memory", "memory", "forget-peer alice"],
      ["error", "error", "forget-peer alice"],
      ["cancelled(flight)", "cancelled(flight)", "forget-peer alice"],
      ["cancelled(placed)", "cancelled(placed)", "forget-peer alice"],
      ["cancelled(executing)", "cancelled(executing)", "forget-peer alice"],
      ["cancelled(long-running)", "cancelled(long-running)", "forget-peer alice"],
      ["resumed(flight->waiting)", "resumed(flight->waiting)", "forget-peer alice"],
      ["resumed(placed->waiting)", "resumed(placed->waiting)", "forget-peer alice"],
      ["resumed(executing->waiting)", "resumed(executing->waiting)", "forget-peer alice"],
      ["resumed(long-running->waiting)", "resumed(long-running->waiting)", "forget-peer alice"],
      ["resumed(placed->fetch)", "resumed(placed->fetch)", "forget-peer alice"],
      ["resumed(executing->fetch)", "resumed(executing->fetch)", "forget-peer alice"],
      ["resumed(long-running->fetch)", "resumed(long-running->fetch)", "forget-peer alice"],
    ],
  },
  {
    event: "data-added",
    make: () => dataAdded("x"),
    changes: [
      ["unknown", "memory"],
      ["released", "memory"],
      ["waiting", "memory", "task-finished x#1"],
      ["fetch", "memory", "execute y#1 with x"],
      ["missing", "memory", "execute y#1 with x"],
      ["ready", "memory", "task-finished x#1"],
      ["constrained", "memory", "task-finished x#1"],
      ["error", "memory"],
    ],
  },
  {
    event: "status-changed, paused",
    make: () => status("paused"),
    changes: [
      ["ready", "ready", "withdraw a#1", "withdraw b#1"],
      ["ready(placed)", "ready(placed)", "withdraw x#1"],
      ["constrained", "constrained", "withdraw g#1"],
      ["constrained(placed)", "constrained(placed)", "withdraw x#1"],
    ],
  },
  {
    event: "resources-changed, none",
    make: () => resources({ GPU: 0 }),
    changes: [
      ["constrained", "constrained", "withdraw g#1"],
      ["constrained(placed)", "constrained(placed)", "withdraw x#1"],
    ],
  },
  {
    event: "timer",
    make: () => timer("find-missing"),
    changes: [
      ["missing", "missing", "request-refresh-who-has x", "set-timer find-missing +1000"],
    ],
  },
  {
    event: "execute-started",
    make: () => started("x"),
    changes: [
      ["ready(placed)", "executing"],
      ["constrained(placed)", "executing"],
      ["cancelled(placed)", "cancelled(executing)", "abort x#1"],
      ["resumed(placed->waiting)", "resumed(executing->waiting)", "abort x#1"],
      ["resumed(placed->fetch)", "resumed(executing->fetch)", "abort x#1"],
    ],
    impossible: NOT_PLACED,
  },
  {
    event: "execute-succeeded",
    make: () => succeeded("x"),
    changes: [
      ["ready(placed)", "memory", "task-finished x#1"],
      ["constrained(placed)", "memory", "task-finished x#1"],
      ["executing", "memory", "task-finished x#1"],
      ["long-running", "memory", "task-finished x#1"],
      ["cancelled(placed)", "unknown", "free x"],
      ["cancelled(executing)", "unknown", "free x"],
      ["cancelled(long-running)", "unknown", "free x"],
      ["resumed(placed->waiting)", "ready(placed)", "free x", "execute x#2"],
      ["resumed(executing->waiting)", "ready(placed)", "free x", "execute x#2"],
      ["resumed(long-running->waiting)", "ready(placed)", "free x", "execute x#2"],
      ["resumed(placed->fetch)", "memory", "add-keys x"],
      ["resumed(executing->fetch)", "memory", "add-keys x"],
      ["resumed(long-running->fetch)", "memory", "add-keys x"],
    ],
    impossible: WITHOUT_RUN,
  },
  {
    event: "execute-failed",
    make: () => failed("x"),
    changes: [
      ["ready(placed)", "error", "task-erred x#1"],
      ["constrained(placed)", "error", "task-erred x#1"],
      ["executing", "error", "task-erred x#1"],
      ["long-running", "error", "task-erred x#1"],
      ["cancelled(placed)", "unknown"],
      ["cancelled(executing)", "unknown"],
      ["cancelled(long-running)", "unknown"],
      ["resumed(placed->waiting)", "ready(placed)", "execute x#2"],
      ["resumed(executing->waiting)", "ready(placed)", "execute x#2"],
      ["resumed(long-running->waiting)", "ready(placed)", "execute x#2"],
      ["resumed(placed->fetch)", "flight", "fetch alice x"],
      ["resumed(executing->fetch)", "flight", "fetch alice x"],
      ["resumed(long-running->fetch)", "flight", "fetch alice x"],
    ],
    impossible: WITHOUT_RUN,
  },
  {
    event: "execute-rescheduled",
    make: () => rescheduled("x"),
    changes: [
      ["ready(placed)", "unknown", "reschedule x"],
      ["constrained(placed)", "unknown", "reschedule x"],
      ["executing", "unknown", "reschedule x"],
      ["long-running", "unknown", "reschedule x"],
      ["cancelled(placed)", "unknown"],
      ["cancelled(executing)", "unknown"],
      ["cancelled(long-running)", "unknown"],
      ["resumed(placed->waiting)", "ready(placed)", "execute x#2"],
      ["resumed(executing->waiting)", "ready(placed)", "execute x#2"],
      ["resumed(long-running->waiting)", "ready(placed)", "execute x#2"],
      ["resumed(placed->fetch)", "flight", "fetch alice x"],
      ["resumed(executing->fetch)", "flight", "fetch alice x"],
      ["resumed(long-running->fetch)", "flight", "fetch alice x"],
    ],
    impossible: WITHOUT_RUN,
  },
  {
    event: "execute-withdrawn",
    make: () => withdrawn("x"),
    changes: [
      ["ready(placed)", "ready(placed)", "execute x#1"],
      ["constrained(placed)", "constrained(placed)", "execute x#1"],
      ["cancelled(placed)", "unknown"],
      ["resumed(placed->waiting)", "ready(placed)", "execute x#2"],
      ["resumed(placed->fetch)", "flight", "fetch alice x"],
    ],
  },
  {
    event: "seceded",
    make: () => seceded("x"),
    changes: [
      ["ready(placed)", "long-running", "long-running x#1"],
      ["constrained(placed)", "long-running", "long-running x#1"],
      ["executing", "long-running", "long-running x#1"],
      ["cancelled(placed)", "cancelled(long-running)", "abort x#1"],
      ["cancelled(executing)", "cancelled(long-running)"],
      ["resumed(placed->waiting)", "resumed(long-running->waiting)", "abort x#1"],
      ["resumed(executing->waiting)", "resumed(long-running->waiting)"],
      ["resumed(placed->fetch)", "resumed(long-running->fetch)", "abort x#1"],
      ["resumed(executing->fetch)", "resumed(long-running->fetch)"],
    ],
  },
  {
    event: "fetch-arrived",
    make: () => arrived("alice", ["x"]),
    changes: [
      ["flight", "memory", "add-keys x", "execute y#1 with x"],
      ["cancelled(flight)", "unknown", "free x"],
      ["resumed(flight->waiting)", "memory", "task-finished x#2"],
    ],
    impossible: NOT_IN_FLIGHT,
  },
  {
    event: "fetch-arrived without x",
    make: () => arrived("alice", ["x"], []),
    changes: [
      ["flight", "missing", "set-timer find-missing +1000"],
      ["cancelled(flight)", "unknown"],
      ["resumed(flight->waiting)", "ready(placed)", "execute x#2"],
    ],
    impossible: NOT_IN_FLIGHT,
  },
  {
    event: "fetch-busy",
    make: () => busy("alice", "x"),
    changes: [
      ["flight", "fetch", "set-timer peer-hold alice +150", "request-refresh-who-has x"],
      ["cancelled(flight)", "unknown", "set-timer peer-hold alice +150"],
      ["resumed(flight->waiting)", "ready(placed)", "set-timer peer-hold alice +150", "execute x#2"],
    ],
    impossible: NOT_IN_FLIGHT,
  },
  {
    event: "fetch-unreachable",
    make: () => unreachable("alice", "x"),
    changes: [
      ["flight", "missing", "forget-peer alice", "set-timer find-missing +1000"],
      ["cancelled(flight)", "unknown", "forget-peer alice"],
      ["resumed(flight->waiting)", "ready(placed)", "forget-peer alice", "execute x#2"],
    ],
    impossible: NOT_IN_FLIGHT,
  },
];

for (const { event, make, changes, impossible = [] } of TABLE) {
  Deno.test(`WorkerMachine, every state: ${event}`, () => {
    for (const [state, begin] of Object.entries(X_IN_STATE)) {
      const worker = begin();
      assertEquals(worker.state("x"), state);
      if (impossible.includes(state)) {
        assertThrows(() => worker.when(make()), BugError, "", `${event} for x in ${state}`);
        continue;
      }
      const instructions = worker.when(make());
      const change = changes.find(([from]) => from === state) ?? [state, state];
      assertEquals([state, worker.state("x"), ...instructions], change);
    }
    for (const [state] of changes) assertEquals(STATES.includes(state), true, state);
  });
}
