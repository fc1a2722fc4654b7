/**
 * The figures of a worker as Prometheus reads them, under the names that dask's own workers use. They are those of the
 * heartbeats, so the scheduler's dashboard and this show the same.
 *
 * @module
 */

/** What the page is made from. */
export interface MetricsSource {
  /** The `metrics` map of a heartbeat. */
  readonly metrics: Readonly<Record<string, unknown>>;
  /** First part of all names, `dask` unless configured. */
  readonly namespace: string;
  readonly slots: number;
  readonly latencySeconds: number;
  readonly ticks: { readonly count: number; readonly longestSeconds: number };
  /** Resident bytes of the worker process itself. */
  readonly rss: number;
}

/** The text, in Prometheus' format 0.0.4. */
export function writeMetricsPage(source: MetricsSource): string {
  const { metrics, ticks } = source;
  const prefix = source.namespace === "" ? "worker_" : `${source.namespace}_worker_`;
  const lines: string[] = [];
  const family = (
    name: string,
    type: "gauge" | "counter",
    help: string,
    samples: readonly (readonly [labels: string, value: number])[],
  ) => {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
    for (const [labels, value] of samples) lines.push(`${name}${labels} ${value}`);
  };
  const gauge = (name: string, help: string, value: number) =>
    family(prefix + name, "gauge", help, [["", value]]);
  const counter = (name: string, help: string, value: number) =>
    family(prefix + name, "counter", help, [["", value]]);

  const states = Object.entries(mapIn(metrics, "task_counts"));
  family(
    `${prefix}tasks`,
    "gauge",
    "Number of tasks at worker.",
    states.map(([state, count]) => [`{state="${label(state)}"}`, Number(count)] as const),
  );
  gauge("threads", "Number of worker threads", source.slots);
  gauge("latency_seconds", "Latency of worker connection", source.latencySeconds);

  const memory = numberIn(metrics, "memory");
  const spilled = mapIn(metrics, "spilled_bytes");
  const managed = Math.min(memory, numberIn(metrics, "managed_bytes") - numberIn(spilled, "memory"));
  family(`${prefix}memory_bytes`, "gauge", "Memory breakdown", [
    ['{type="managed"}', managed],
    ['{type="unmanaged"}', memory - managed],
    ['{type="spilled"}', numberIn(spilled, "disk")],
  ]);

  const transfer = mapIn(metrics, "transfer");
  for (const [way, from] of [["incoming", "from"], ["outgoing", "to"]] as const) {
    gauge(
      `transfer_${way}_bytes`,
      `Total size of open data transfers ${from} other workers`,
      numberIn(transfer, `${way}_bytes`),
    );
    gauge(
      `transfer_${way}_count`,
      `Number of open data transfers ${from} other workers`,
      numberIn(transfer, `${way}_count`),
    );
    counter(
      `transfer_${way}_count_total`,
      `Total number of data transfers ${from} other workers since the worker was started`,
      numberIn(transfer, `${way}_count_total`),
    );
  }
  gauge(
    "tick_duration_maximum_seconds",
    "Maximum tick duration observed since Prometheus last scraped metrics",
    ticks.longestSeconds,
  );
  counter("tick_count_total", "Total number of ticks observed since the server started", ticks.count);
  family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", [["", source.rss]]);
  return `${lines.join("\n")}\n`;
}

function mapIn(map: Readonly<Record<string, unknown>>, name: string): Readonly<Record<string, unknown>> {
  const value = map[name];
  return typeof value === "object" && value !== null ? value as Readonly<Record<string, unknown>> : {};
}

function numberIn(map: Readonly<Record<string, unknown>>, name: string): number {
  const value = map[name];
  return typeof value === "number" ? value : 0;
}

function label(text: string): string {
  return text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
}
