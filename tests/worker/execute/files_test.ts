/** Files of the folder that a worker shares with its executors, read and written through libc and through Deno. */
import { assertEquals, assertThrows } from "@std/assert";
import { DaskError } from "../../../protocol/errors.ts";
import { denoFiles, openLibc } from "../../../worker/execute/files.ts";

const linux = Deno.build.os === "linux";
const WAYS = { deno: denoFiles, ...(linux ? { libc: openLibc().files } : {}) };
/** One below, one above the size from which libc maps instead of copying. */
const SIZES = [100_000, 40 * 2 ** 20 + 8];

for (const [way, files] of Object.entries(WAYS)) {
  for (const byteLength of SIZES) {
    Deno.test(`${way}: a file of ${byteLength} bytes comes as it is, aligned, and is not changed by its reader`, () => {
      const path = Deno.makeTempFileSync();
      try {
        Deno.removeSync(path);
        const numbers = Float64Array.from({ length: byteLength / 8 }, (_, i) => i);
        assertEquals(files.write(path, new Uint8Array(numbers.buffer)), true);
        const bytes = files.read(path, byteLength);
        assertEquals([bytes.byteLength, bytes.byteOffset % 8], [byteLength, 0]);
        const seen = new Float64Array(bytes.buffer, bytes.byteOffset, byteLength / 8);
        assertEquals(seen.every((value, i) => value === i), true);
        seen.fill(-1);
        assertEquals(denoFiles.read(path, byteLength), new Uint8Array(numbers.buffer));
        // The name may go while the bytes are in use.
        Deno.removeSync(path);
        assertEquals(seen.at(-1), -1);
      } finally {
        try {
          Deno.removeSync(path);
        } catch {
          // Removed above, unless an assertion failed before.
        }
      }
    });

    Deno.test(`${way}: a file shorter than ${byteLength} bytes is an error, not a crash`, () => {
      const path = Deno.makeTempFileSync();
      try {
        Deno.writeFileSync(path, new Uint8Array(10));
        assertThrows(() => files.read(path, byteLength), DaskError, "got 10");
      } finally {
        Deno.removeSync(path);
      }
    });
  }
}
