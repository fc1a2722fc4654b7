/**
 * The worker's pages by HTTP, for operators: `/health`, `/metrics`, `/info` and `/info.json`. They can be read and
 * nothing else; loaded only by a worker that was asked for them.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import { formatBytes } from "../base/units.ts";
import { DaskError } from "../protocol/errors.ts";
import { keyText } from "../protocol/key.ts";
import { type Figures, writeExecuting, writeMetrics } from "./heartbeat.ts";
import { writeMetricsPage } from "./metrics.ts";
import type { WorkerDescription } from "./rpc.ts";

/** What the pages show, taken anew for each request. */
export interface WorkerReport {
  readonly description: WorkerDescription;
  readonly figures: Figures;
  readonly latencySeconds: number;
  /** As `get_logs` answers them, with times: newest first. */
  readonly logs: readonly unknown[];
}

/** What {@linkcode serveHttp} is told. */
export interface HttpOptions {
  readonly host: string;
  /** 0: any. A port that is taken is replaced by any, with a warning, as in dask. */
  readonly port: number;
  readonly logger: Logger;
  readonly report: () => Promise<WorkerReport>;
  /** Ticks of the event loop so far, and the longest time between two since the last call. */
  readonly ticks: () => { readonly count: number; readonly longestSeconds: number };
  /** First part of the names of metrics. */
  readonly namespace: string;
}

/** A running server. */
export interface HttpServer extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
}

/** Begins to serve. @throws {DaskError} when it cannot listen. */
export function serveHttp(options: HttpOptions): HttpServer {
  const { host, logger } = options;
  const stop = new AbortController();
  const handler = (request: Request) => answer(request, options);
  const listen = (port: number) =>
    Deno.serve(
      {
        hostname: host,
        port,
        signal: stop.signal,
        onListen: () => {},
        onError: (error) => failure(error, logger),
      },
      handler,
    );
  let server: ReturnType<typeof listen>;
  try {
    server = listen(options.port);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.AddrInUse)) {
      throw new DaskError(`Cannot serve pages at ${host}:${options.port}: ${(cause as Error).message}`, {
        cause,
      });
    }
    server = listen(0);
    logger.log("warning", `Port ${options.port} is taken: pages are at port ${server.addr.port} instead`);
  }
  return {
    host: host.includes(":") ? `[${host}]` : host,
    port: server.addr.port,
    [Symbol.asyncDispose]: async () => {
      // Not in order: a reader who takes his time must not hold up the end of the worker.
      stop.abort();
      await server.finished;
    },
  };
}

async function answer(request: Request, { report, ticks, namespace }: HttpOptions): Promise<Response> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    return plain("Only GET and HEAD are answered\n", 405, { allow: "GET, HEAD" });
  }
  const path = new URL(request.url).pathname;
  switch (path) {
    case "/health":
      return plain("ok");
    case "/metrics": {
      const { figures, description, latencySeconds } = await report();
      const text = writeMetricsPage({
        metrics: writeMetrics(figures),
        namespace,
        slots: description.slots,
        latencySeconds,
        ticks: ticks(),
        rss: Deno.memoryUsage().rss,
      });
      return plain(text, 200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
    }
    case "/info.json":
      return json(await report());
    case "/info":
      if (/\bapplication\/json\b/.test(request.headers.get("accept") ?? "")) return json(await report());
      return page(await report());
    case "/":
    case "/status":
      // The scheduler's dashboard links there, sometimes through a proxy: the way on is relative.
      return new Response(null, { status: 302, headers: { location: "info" } });
    default:
      return plain("Not found: expected /health, /metrics, /info or /info.json\n", 404);
  }
}

function failure(error: unknown, logger: Logger): Response {
  const text = error instanceof Error ? error.message : String(error);
  logger.log("warning", `Cannot answer a request for a page: ${text}`);
  return plain(`${text}\n`, 500);
}

const HEADERS = { "cache-control": "no-store", "x-content-type-options": "nosniff" };

function plain(text: string, status = 200, headers: Record<string, string> = {}): Response {
  return new Response(text, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", ...HEADERS, ...headers },
  });
}

function json(report: WorkerReport): Response {
  const { figures, description, logs } = report;
  const { slots, memoryLimitBytes, ...identity } = description;
  const executing = Object.entries(writeExecuting(figures.counts.executing, figures.at));
  const body = JSON.stringify({
    ...identity,
    language: "typescript",
    nthreads: slots,
    memory_limit: memoryLimitBytes,
    tasks: figures.counts.states,
    executing: executing.map(([key, seconds]) => ({ key: keyText(key), seconds })),
    metrics: writeMetrics(figures),
    logs,
  });
  return plain(body, 200, { "content-type": "application/json; charset=utf-8" });
}

const STYLE = "body{font:14px/1.5 sans-serif;margin:2em auto;max-width:60em;padding:0 1em}" +
  "table{border-collapse:collapse}td,th{text-align:left;padding:.2em 1em .2em 0;vertical-align:top}" +
  "pre{white-space:pre-wrap}";

function page({ figures, description, logs }: WorkerReport): Response {
  const { name, address, scheduler, status, slots, memoryLimitBytes } = description;
  const metrics = writeMetrics(figures);
  const memory = Number(metrics["memory"]);
  const executing = Object.entries(writeExecuting(figures.counts.executing, figures.at));
  const html = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Dask worker ${
    escape(name)
  }</title><style>${STYLE}</style></head><body><h1>Dask worker ${escape(name)}</h1>${
    table([
      ["Address", address],
      ["Scheduler", scheduler],
      ["Status", status],
      ["Language", "TypeScript"],
      ["Tasks at a time", String(slots)],
      [
        "Memory",
        formatBytes(memory) + (memoryLimitBytes === null ? "" : ` of ${formatBytes(memoryLimitBytes)}`),
      ],
      ["Held", formatBytes(Number(metrics["managed_bytes"]))],
    ])
  }<h2>Tasks</h2>${
    table(Object.entries(figures.counts.states).map(([state, count]) => [state, String(count)]))
  }<h2>Running</h2>${
    table(executing.map(([key, seconds]) => [keyText(key), `${seconds.toFixed(1)} s`]))
  }<h2>Log</h2><pre>${
    escape(logs.map(logLine).join("\n"))
  }</pre><p><a href="info.json">info.json</a> · <a href="metrics">metrics</a> · <a href="health">health</a></p></body></html>`;
  return plain(html, 200, {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
  });
}

function table(rows: readonly (readonly [string, string])[]): string {
  if (rows.length === 0) return "<p>None</p>";
  return `<table>${
    rows.map(([name, value]) => `<tr><th>${escape(name)}</th><td>${escape(value)}</td></tr>`).join("")
  }</table>`;
}

function logLine(line: unknown): string {
  const [seconds, level, text] = line as [number, string, string];
  return `${new Date(seconds * 1000).toISOString()} ${level} ${text}`;
}

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (character) => ENTITIES[character]!);
}
