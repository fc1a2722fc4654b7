/**
 * Scheduler, workers and client on hosts of their own: network namespaces on a bridge, in a user namespace that takes
 * all of it along when it ends. Where namespaces are not to be had, the hosts are addresses of the loopback network.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { pythonEnv } from "../cluster/python_scheduler.ts";
import { PROJECT, python } from "./support/scheduler.ts";

const UNSHARE = [
  "--user",
  "--map-root-user",
  "--net",
  "--mount",
  "--pid",
  "--fork",
  "--kill-child",
  "sh",
  "-e",
];

/** Four hosts. `on 2 command` becomes a command on one of them: in a shell of its own. */
const NAMESPACES = `
mount -t tmpfs none /run
mkdir -p /run/netns
ip link set lo up
ip link add bridge type bridge
ip addr add 10.77.0.1/24 dev bridge
ip link set bridge up
for n in 2 3 4; do
  ip netns add host$n
  ip link add port$n type veth peer name eth0 netns host$n
  ip link set port$n master bridge up
  ip -n host$n addr add 10.77.0.$n/24 dev eth0
  ip -n host$n link set eth0 up
  ip -n host$n link set lo up
done
on() { host=$1; shift; exec nsenter --net=/run/netns/host$host "$@"; }
`;
const LOOPBACK = `
on() { shift; exec "$@"; }
`;

async function succeeds(command: string, args: readonly string[]): Promise<boolean> {
  try {
    const { success } = await new Deno.Command(command, {
      args: [...args],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).output();
    return success;
  } catch {
    return false;
  }
}

Deno.test("D6 scheduler, client and workers on different hosts", async () => {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-hosts-" });
  try {
    await Deno.writeTextFile(`${folder}/probe.sh`, NAMESPACES);
    const apart = Deno.build.os === "linux" && await succeeds("unshare", [...UNSHARE, `${folder}/probe.sh`]);
    const network = apart ? "10.77.0" : "127.0.0";
    await Deno.writeTextFile(
      `${folder}/client.ts`,
      `
import { connect, op } from "${new URL("../mod.ts", import.meta.url).href}";
await using client = await connect({ address: "tcp://${network}.1:18786" });
await client.waitForWorkers(2, { signal: AbortSignal.timeout(60_000) });
const [one, two] = (await client.workers()).map(({ address }) => address).sort();
const made = client.submit((n: number) => new Float64Array(n).fill(2), [100_000], { workers: [one!] });
const sum = client.submit((xs: Float64Array) => xs.reduce((a, b) => a + b), [made], { workers: [two!] });
console.log(JSON.stringify([one, two, await sum.result(), (await made.result()).length, await client.run([op(() => 1)])]));
`,
    );
    const worker = (host: number) =>
      `on ${host} "${Deno.execPath()}" run -A --quiet "${PROJECT}worker/main.ts" tcp://${network}.1:18786 ` +
      `--host ${network}.${host} --nthreads 1 --no-nanny >"${folder}/worker${host}.log" 2>&1 &`;
    await Deno.writeTextFile(
      `${folder}/hosts.sh`,
      `${apart ? NAMESPACES : LOOPBACK}
trap 'kill $all || :; wait || :' EXIT
"${(await python()).python}" -m dask scheduler --host ${network}.1 --port 18786 --no-dashboard \\
  --scheduler-file "${folder}/scheduler.json" >"${folder}/scheduler.log" 2>&1 &
scheduler=$!
all=$!
until [ -s "${folder}/scheduler.json" ]; do kill -0 $scheduler; sleep 0.05; done
${worker(2)}
all="$all $!"
${worker(3)}
all="$all $!"
(on 4 "${Deno.execPath()}" run -A --quiet "${folder}/client.ts")
`,
    );
    const [command, args] = apart
      ? ["unshare", [...UNSHARE, `${folder}/hosts.sh`]] as const
      : ["sh", ["-e", `${folder}/hosts.sh`]] as const;
    const { code, stdout, stderr } = await new Deno.Command(command, {
      args: [...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1", ...pythonEnv(folder), DASK_DISTRIBUTED__SCHEDULER__VALIDATE: "True" },
    }).output();
    const logs = await Promise.all(
      ["scheduler", "worker2", "worker3"].map((name) =>
        Deno.readTextFile(`${folder}/${name}.log`).catch(() => "")
      ),
    );
    assertEquals(code, 0, [new TextDecoder().decode(stderr), ...logs].join("\n---\n"));
    const [one, two, sum, length, ran] = JSON.parse(new TextDecoder().decode(stdout));
    assert(one.startsWith(`tcp://${network}.2:`) && two.startsWith(`tcp://${network}.3:`), `${one} ${two}`);
    assertEquals([sum, length, ran], [200_000, 100_000, [1]]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
