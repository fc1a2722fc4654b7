"""Watches a scheduler from outside: writes the time (s since the epoch) at which it knew `count` tasks into a file."""
import os
import sys
import time

from distributed import Client


def main():
    address, count, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with Client(address) as client:
        print("watching", flush=True)
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) < count:
            time.sleep(0.02)
        with open(f"{file}.part", "w") as out:
            out.write(str(time.time()))
        os.rename(f"{file}.part", file)


main()
