"""The Python side of the bench: the same measurements as client.ts, one JSON object on the last line of stdout."""
import json
import sys
import time

import numpy as np
from distributed import Client, wait


def inc(x):
    return x + 1


def make(length, salt):
    return np.full(length, float(salt))


def last(array):
    return float(array[-1])


def main():
    address, count, round_trips, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    client = Client(address)
    client.wait_for_workers(2 if count else 3)
    named = {w["name"]: address for address, w in client.scheduler_info(n_workers=-1)["workers"].items()}
    a, b = named["a"], named["b" if count else "c"]
    out = {}

    if count:
        speeds, cpus = [], []
        for ops in (count // 20, count, count, count):
            cpu = time.process_time()
            start = time.perf_counter()
            futures = client.map(inc, range(ops), pure=False)
            wait(futures)
            speeds.append(ops / (time.perf_counter() - start))
            cpus.append(time.process_time() - cpu)
            del futures
            time.sleep(2)  # the cluster forgets what was released
        out["opsPerSecond"] = sorted(speeds[1:])[1]
        out["clientCpuSeconds"] = sorted(cpus[1:])[1]

        samples = []
        for i in range(round_trips):
            start = time.perf_counter()
            client.submit(inc, i, pure=False).result()
            samples.append((time.perf_counter() - start) * 1000)
        out["roundTripMs"] = sorted(samples)[len(samples) // 2]

    speeds = []
    for i in range(3):
        array = client.submit(make, megabytes * 131072, i, pure=False, workers=[a])
        wait(array)
        start = time.perf_counter()
        assert client.submit(last, array, pure=False, workers=[b]).result() == float(i)
        speeds.append(megabytes / (time.perf_counter() - start))
        del array
    out["transferMBPerSecond"] = sorted(speeds)[1]
    client.close()
    print(json.dumps(out))


main()
