import { assertEquals } from "@std/assert";
import { StoreMachine } from "../../../actors/store/machine.ts";
import type { Payload } from "../../../protocol/payload.ts";

const header = Uint8Array.of(1, 2, 3);

function inMemory(...lengths: number[]): Payload {
  return { header, frames: lengths.map((length) => new Uint8Array(length)) };
}

function inFiles(...files: [string, number][]): Payload {
  return { header, frames: files.map(([file, byteLength]) => ({ file, byteLength })) };
}

function machine(roomBytes = Infinity): StoreMachine {
  return new StoreMachine({ fileBytesMin: 100, roomBytes });
}

Deno.test("figures count header and frames, in memory and in files", () => {
  const store = machine();
  assertEquals(store.usage(), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
  assertEquals(store.commit("x", inMemory(10, 0, 5)).stored.nbytes, 18);
  assertEquals(store.commit("y", inFiles(["/d/1", 1000])).stored.nbytes, 1003);
  assertEquals(store.usage(), { keys: 2, bytes: 1021, fileBytes: 1000, diskBytes: 0 });
  assertEquals(store.free(["y", "never there"]), { ids: [2], unneeded: ["/d/1"] });
  assertEquals(store.usage(), { keys: 1, bytes: 18, fileBytes: 0, diskBytes: 0 });
  store.validate();
});

Deno.test("a lease keeps a freed payload; new views do not see it", () => {
  const store = machine();
  store.commit("x", inFiles(["/d/1", 1000]));
  const first = store.view(["x", "missing", "x"]);
  const second = store.view(["x"]);
  assertEquals(first.found.map((stored) => [stored.key, stored.id]), [["x", 1]]);
  assertEquals(store.free(["x"]), { ids: [1], unneeded: [] });
  assertEquals(store.view(["x"]).found, []);
  assertEquals(store.usage(), { keys: 0, bytes: 1003, fileBytes: 1000, diskBytes: 0 });
  assertEquals(store.release(first.lease), []);
  assertEquals(store.release(first.lease), []);
  store.validate();
  assertEquals(store.release(second.lease), ["/d/1"]);
  assertEquals(store.usage(), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
  assertEquals(store.leases, 1);
  store.validate();
});

Deno.test("a key that is committed again gets another id; the old bytes go when nobody reads them", () => {
  const store = machine();
  store.commit("x", inFiles(["/d/1", 100]));
  const { lease } = store.view(["x"]);
  const again = store.commit("x", inFiles(["/d/2", 200]));
  assertEquals([again.stored.id, again.unneeded], [2, []]);
  assertEquals(store.usage(), { keys: 1, bytes: 306, fileBytes: 300, diskBytes: 0 });
  assertEquals(store.view(["x"]).found[0]?.id, 2);
  assertEquals(store.release(lease), ["/d/1"]);
  assertEquals(store.commit("x", inMemory(1)).unneeded, []);
  assertEquals(store.release(2), ["/d/2"]);
  assertEquals(store.commit("x", inFiles(["/d/3", 300])).unneeded, []);
  assertEquals(store.commit("x", inMemory(1)).unneeded, ["/d/3"]);
  store.validate();
});

Deno.test("a file that two payloads share is counted once and goes with the last of them", () => {
  const store = machine();
  const payload = inFiles(["/d/1", 100]);
  store.commit("x", payload);
  store.commit("y", payload);
  assertEquals(store.usage(), { keys: 2, bytes: 106, fileBytes: 100, diskBytes: 0 });
  assertEquals(store.commit("y", payload).unneeded, []);
  assertEquals(store.free(["x"]).unneeded, []);
  assertEquals(store.usage(), { keys: 1, bytes: 103, fileBytes: 100, diskBytes: 0 });
  assertEquals(store.discard("/d/1"), []);
  assertEquals(store.refusal({ file: "/d/1", byteLength: 100 }), null);
  assertEquals(typeof store.refusal({ file: "/d/1", byteLength: 99 }), "string");
  assertEquals(store.free(["y"]).unneeded, ["/d/1"]);
  store.validate();
});

Deno.test("frames fit when they are large enough and there is room, allocated files included", () => {
  const store = machine(1000);
  assertEquals([store.fits(99), store.fits(100), store.fits(1000), store.fits(1001)], [
    false,
    true,
    true,
    false,
  ]);
  store.allocate("/d/1", 600);
  assertEquals([store.fits(400), store.fits(401)], [true, false]);
  store.commit("x", inFiles(["/d/1", 600]));
  assertEquals([store.fits(400), store.fits(401)], [true, false]);
  store.allocate("/d/2", 400);
  assertEquals(store.fits(100), false);
  assertEquals(store.discard("/d/2"), ["/d/2"]);
  assertEquals(store.fits(400), true);
  store.allocate("/d/3", 100);
  store.validate();
  assertEquals(store.close(), ["/d/1", "/d/3"]);
  assertEquals(store.usage(), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
});

/** Numbers that look random and follow from the seed. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
}

Deno.test("whatever happens in whatever order, files go once, and only when nobody needs them", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = randomFrom(seed);
    const store = machine();
    const files = new Set<string>();
    const leases: { lease: number; files: string[] }[] = [];
    const current = new Map<string, string[]>();
    let made = 0;
    const remove = (unneeded: readonly string[]): void => {
      const needed = new Set([...current.values(), ...leases.map((lease) => lease.files)].flat());
      for (const file of unneeded) {
        assertEquals(files.delete(file), true, `seed ${seed}: ${file} is removed twice`);
        assertEquals(needed.has(file), false, `seed ${seed}: ${file} is removed and needed`);
      }
    };
    for (let step = 0; step < 300; step++) {
      const key = `k${random(5)}`;
      switch (random(4)) {
        case 0: {
          const shared = [...current.values()].flat()[0];
          const own = random(4) === 0 && shared !== undefined
            ? [shared]
            : random(2) === 0
            ? [`/d/${++made}`]
            : [];
          for (const file of own) files.add(file);
          current.set(key, own);
          remove(store.commit(key, inFiles(...own.map((file): [string, number] => [file, 100]))).unneeded);
          break;
        }
        case 1: {
          const keys = [key, `k${random(5)}`];
          const { lease, found } = store.view(keys);
          assertEquals(found.map((stored) => stored.key), [...new Set(keys)].filter((k) => current.has(k)));
          leases.push({ lease, files: found.flatMap((stored) => current.get(stored.key) ?? []) });
          break;
        }
        case 2: {
          const [ended] = leases.splice(random(leases.length), 1);
          if (ended !== undefined) remove(store.release(ended.lease));
          break;
        }
        case 3:
          current.delete(key);
          remove(store.free([key]).unneeded);
      }
      store.validate();
    }
    while (leases.length > 0) remove(store.release(leases.pop()!.lease));
    current.clear();
    remove(store.free(["k0", "k1", "k2", "k3", "k4"]).unneeded);
    assertEquals([...files], [], `seed ${seed}: files are left`);
    assertEquals(store.usage(), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
  }
});
