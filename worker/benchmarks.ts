/**
 * What `client.benchmark_hardware()` asks of a worker: how fast its disk, its memory and its network are, in bytes per
 * second by size. Measured in short slices in the worker's own process, so that heartbeats go on.
 *
 * @module
 */
import { encodeValue } from "../protocol/value.ts";
import { serialized } from "../protocol/envelope.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
/** Sizes and their names are dask's: figures of all workers are averaged by name. */
const DISK_SIZES = {
  "1 kiB": KIB,
  "100 kiB": 100 * KIB,
  "1 MiB": MIB,
  "10 MiB": 10 * MIB,
  "100 MiB": 100 * MIB,
};
const MEMORY_SIZES = {
  "2 kiB": 2 * KIB,
  "10 kiB": 10 * KIB,
  "100 kiB": 100 * KIB,
  "1 MiB": MIB,
  "10 MiB": 10 * MIB,
};
const NETWORK_SIZES = {
  "1 kiB": KIB,
  "10 kiB": 10 * KIB,
  "100 kiB": 100 * KIB,
  "1 MiB": MIB,
  "10 MiB": 10 * MIB,
  "50 MiB": 50 * MIB,
};

/** How long each size is measured, at least one time, ms. */
const DISK_MS = 250;
const MEMORY_MS = 100;
const NETWORK_MS = 250;
/** The event loop is kept for so long at a time, ms. */
const SLICE_MS = 5;
/** Disk files are begun anew when they have grown to this, bytes. */
const FILE_BYTES_MAX = 256 * MIB;

/** Bytes per second by size. */
export type Bandwidths = Record<string, number>;

/** Appends to a file in `directory` and has each write reach the disk. */
export async function benchmarkDisk(directory: string): Promise<Bandwidths> {
  const path = await Deno.makeTempFile({ dir: directory, prefix: "benchmark-" });
  try {
    return await bySize(DISK_SIZES, DISK_MS, async (data) => {
      const { size } = await Deno.stat(path);
      using file = await Deno.open(path, { write: true, append: true });
      if (size + data.byteLength > FILE_BYTES_MAX) await file.truncate();
      for (let at = 0; at < data.byteLength;) at += await file.write(at === 0 ? data : data.subarray(at));
      await file.syncData();
      return data.byteLength;
    });
  } finally {
    await Deno.remove(path);
  }
}

/** Copies bytes. */
export function benchmarkMemory(): Promise<Bandwidths> {
  return bySize(MEMORY_SIZES, MEMORY_MS, async (data) => {
    const end = performance.now() + SLICE_MS;
    let bytes = 0;
    // Within the same bytes: fresh memory for each copy would stay with the process for long.
    const half = data.byteLength >> 1;
    do {
      data.copyWithin(0, half);
      data.copyWithin(half, 0, half);
      bytes += data.byteLength;
    } while (performance.now() < end);
    await new Promise((resolve) => setTimeout(resolve, 0));
    return bytes;
  });
}

/** Has another worker send back what it is sent; `ask` sends one request there. */
export function benchmarkNetwork(
  ask: (request: { readonly op: "echo"; readonly data: unknown }) => Promise<unknown>,
): Promise<Bandwidths> {
  return bySize(NETWORK_SIZES, NETWORK_MS, async (data) => {
    await ask({ op: "echo", data: serialized(encodeValue(data)) });
    return 2 * data.byteLength;
  });
}

/** `step` moves some bytes and says how many. */
async function bySize(
  sizes: Readonly<Record<string, number>>,
  durationMs: number,
  step: (data: Uint8Array<ArrayBuffer>) => Promise<number>,
): Promise<Bandwidths> {
  const bandwidths: Bandwidths = {};
  for (const [name, size] of Object.entries(sizes)) {
    const data = noise(size);
    const start = performance.now();
    let bytes = 0;
    do bytes += await step(data); while (performance.now() < start + durationMs);
    bandwidths[name] = bytes / ((performance.now() - start) / 1000);
  }
  return bandwidths;
}

/** Bytes that do not compress: one random block again and again is enough for that, and soon made. */
function noise(size: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(size);
  crypto.getRandomValues(data.subarray(0, Math.min(size, 65_536)));
  for (let filled = 65_536; filled < size; filled *= 2) {
    data.copyWithin(filled, 0, Math.min(filled, size - filled));
  }
  return data;
}
