"""The Python side of submitting a graph of many ops: CPU and time until the scheduler knows them all, as JSON on the
last line. (For `client.map` alone Python sends the function and the arguments once, and no graph.)"""
import json
import os
import sys
import time

from dask._task_spec import Task
from distributed import Client


def inc(x):
    return x + 1


def main():
    address, count, known = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    client = Client(address)
    cpu, start = time.process_time(), time.time()
    names = [f"inc-{start}-{i}" for i in range(count)]
    graph = {name: Task(name, inc, i) for i, name in enumerate(names)}
    futures = client.get(graph, names, sync=False)
    while not os.path.exists(known):
        time.sleep(0.02)
    cpu = time.process_time() - cpu
    with open(known) as file:
        seconds = float(file.read()) - start
    del futures
    client.close()
    print(json.dumps({"submitCpuSeconds": cpu, "submitSeconds": seconds}))


main()
