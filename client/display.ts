/**
 * What notebooks show of clients and futures: MIME bundles, as Deno's Jupyter kernel asks for them by
 * `Symbol.for("Jupyter.display")`. Everything that came from elsewhere is escaped.
 *
 * @module
 */
import { escapeMarkup } from "../base/markup.ts";
import type { SchedulerInfo, WorkerInfo } from "./client.ts";

/** One thing in several formats. */
export type MimeBundle = { readonly "text/plain": string; readonly "text/html": string };

/** Workers shown one by one; the rest are counted. */
const WORKERS_MAX = 20;

/** A client; `info` is null when its scheduler does not answer. */
export function showClient(
  client: {
    readonly text: string;
    readonly id: string;
    readonly address: string;
    readonly dashboard: string | null;
  },
  info: SchedulerInfo | null,
): MimeBundle {
  const rows: [string, string][] = [
    [
      "Scheduler",
      code(client.address) + (info === null ? ", no answer" : `, dask ${escapeMarkup(info.version)}`),
    ],
    ["Client", code(client.id)],
  ];
  if (client.dashboard !== null) {
    const url = escapeMarkup(client.dashboard);
    rows.push(["Dashboard", `<a href="${url}" target="_blank" rel="noopener">${url}</a>`]);
  }
  if (info !== null) rows.push(["Workers", count(info.workers)]);
  return {
    "text/plain": info === null ? client.text : `${client.text}: ${count(info.workers)}`,
    "text/html": `<strong>dask client</strong>${table(rows)}${
      info === null ? "" : workerTable(info.workers)
    }`,
  };
}

/** A future; its value stays where it is. */
export function showFuture(text: string, key: string, status: string): MimeBundle {
  const colour = { finished: "#2a7d3f", error: "#b3261e", pending: "#7a5c00" }[status] ?? "#555";
  return {
    "text/plain": text,
    "text/html": `<strong>Future</strong> <span style="color:${colour}">${escapeMarkup(status)}</span> ${
      code(key)
    }`,
  };
}

function count(workers: readonly WorkerInfo[]): string {
  const slots = workers.reduce((sum, worker) => sum + worker.slots, 0);
  const ours = workers.filter(({ language }) => language === "typescript").length;
  return `${workers.length} (${ours} TypeScript, ${workers.length - ours} Python), ${slots} ${
    slots === 1 ? "slot" : "slots"
  }`;
}

function workerTable(workers: readonly WorkerInfo[]): string {
  if (workers.length === 0) return "";
  const rows = workers.slice(0, WORKERS_MAX).map(({ address, name, slots, language }) =>
    `<tr><td>${escapeMarkup(name)}</td><td>${code(address)}</td><td>${language}</td><td>${slots}</td></tr>`
  );
  const more = workers.length - rows.length;
  if (more > 0) rows.push(`<tr><td colspan="4">and ${more} more</td></tr>`);
  return `<table><tr><th>Name</th><th>Address</th><th>Language</th><th>Slots</th></tr>${
    rows.join("")
  }</table>`;
}

function table(rows: readonly (readonly [name: string, html: string])[]): string {
  return `<table>${rows.map(([name, html]) => `<tr><th>${name}</th><td>${html}</td></tr>`).join("")}</table>`;
}

function code(text: string): string {
  return `<code>${escapeMarkup(text)}</code>`;
}
