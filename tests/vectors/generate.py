"""Writes the golden vectors beside this file, from the Python packages that are installed.

    python generate.py            # everything
    python generate.py --release  # only what differs between releases of dask: run after installing another one

pickles.json      values pickled by CPython, protocol by protocol
values.json       values serialized by distributed (header and frames)
run_specs-*.json  tasks as a scheduler of that release pickles them for a worker
errors-*.json     exceptions and tracebacks as a worker with that release of tblib reports them

Each vector has a name that says what it shows, Python's repr, and its bytes in base64. Values that depend on the run
(temporary paths, random keys) are avoided.
"""
import sys

if __file__ != "generate.py":
    # Once more under a short name: files appear in tracebacks and code objects, and must not tell where we are.
    exec(compile(open(__file__).read(), "generate.py", "exec"), {"__name__": "__main__", "__file__": "generate.py"})
    sys.exit()

import base64
import collections
import datetime
import decimal
import fractions
import importlib.metadata
import json
import pathlib
import pickle
import platform
import types
import uuid

import distributed
import numpy as np

HERE = pathlib.Path(sys.argv[0]).resolve().parent


def b64(data):
    return base64.b64encode(bytes(data)).decode()


def write(name, vectors):
    versions = {
        "python": platform.python_version(),
        "distributed": distributed.__version__,
        "numpy": np.__version__,
    }
    lines = ",\n".join(json.dumps(vector) for vector in vectors)
    text = '{"versions": %s, "vectors": [\n%s\n]}\n' % (json.dumps(versions), lines)
    (HERE / name).write_text(text)
    print(name, len(vectors), "vectors")


# --- pickles ---

shared = [1]
cyclic_list = []
cyclic_list.append(cyclic_list)
cyclic_dict = {}
cyclic_dict["self"] = cyclic_dict
proto = {"__proto__": {"polluted": True}, "constructor": 1}
UTC = datetime.timezone.utc
CET = datetime.timezone(datetime.timedelta(hours=1))

PLAIN = {
    "none": None,
    "true": True,
    "false": False,
    "int-0": 0,
    "int-255": 255,
    "int-256": 256,
    "int-65535": 65535,
    "int-65536": 65536,
    "int-minus-1": -1,
    "int-2**31-1": 2**31 - 1,
    "int-2**31": 2**31,
    "int-minus-2**31": -(2**31),
    "int-2**53-1": 2**53 - 1,
    "int-2**53": 2**53,
    "int-minus-2**53+1": -(2**53) + 1,
    "int-2**63": 2**63,
    "int-minus-2**63": -(2**63),
    "int-2**70": 2**70,
    "int-10**700": 10**700,
    "float-1.5": 1.5,
    "float-minus-0": -0.0,
    "float-inf": float("inf"),
    "float-nan": float("nan"),
    "float-3.0": 3.0,
    "str-empty": "",
    "str-ascii": "abc",
    "str-latin": "Grüße",
    "str-astral": "a😀b",
    "str-lone-surrogates": "\ud800x\udfff",
    "str-bom": "\ufeffx",
    "str-300-characters": "é" * 300,
    "bytes": b"\x00\xff",
    "bytes-300": bytes(range(256)) + b"x" * 44,
    "bytearray": bytearray(b"ab"),
    "list": [1, "a", None],
    "list-empty": [],
    "list-1100": list(range(1100)),
    "tuple-0": (),
    "tuple-1": (1,),
    "tuple-2": (1, 2),
    "tuple-3": (1, 2, 3),
    "tuple-4": (1, 2, 3, 4),
    "dict": {"a": 1, "b": [2]},
    "dict-empty": {},
    "dict-int-keys": {1: "a", 2: "b"},
    "dict-tuple-keys": {("x", 0): 1},
    "dict-mixed-keys": {"a": 1, 2: 3},
    "dict-proto": proto,
    "dict-1100": {f"k{i}": i for i in range(1100)},
    "set": {7},
    "frozenset": frozenset([7]),
    "shared": [shared, shared],
    "cyclic-list": cyclic_list,
    "cyclic-dict": cyclic_dict,
    "nested": {"rows": [{"x": i, "name": f"n{i}", "ok": i % 2 == 0} for i in range(3)]},
    "datetime-naive": datetime.datetime(2026, 1, 2, 3, 4, 5, 678901),
    "datetime-utc": datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    "datetime-plus-1-hour": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=CET),
    "datetime-year-99": datetime.datetime(99, 1, 1, tzinfo=UTC),
    "date": datetime.date(2026, 1, 2),
    "time": datetime.time(1, 2, 3, 4),
    "timedelta": datetime.timedelta(1, 2, 3),
    "decimal": decimal.Decimal("1.50"),
    "uuid": uuid.UUID(int=0x0123456789ABCDEF0123456789ABCDEF),
    "ordered-dict": collections.OrderedDict(a=1),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2], 5),
    "complex": 1 + 2j,
    "range": range(1, 10, 2),
    "slice": slice(1, None),
    "fraction": fractions.Fraction(1, 3),
    "ellipsis": ...,
    "type-int": int,
    "type-none": type(None),
    "function": print,
    "exception": ValueError("bad"),
}
ARRAYS = {
    "np-f8": np.array([1.0, 2.0, 3.0]),
    "np-f4": np.array([1.5], "f4"),
    "np-f2": np.array([1.5, -2.0], "f2"),
    "np-i1": np.array([-1], "i1"),
    "np-i2": np.array([-1], "i2"),
    "np-i4": np.array([-1], "i4"),
    "np-i8": np.array([-1, 2**60], "i8"),
    "np-u1": np.array([255], "u1"),
    "np-u2": np.array([65535], "u2"),
    "np-u4": np.array([2**32 - 1], "u4"),
    "np-u8": np.array([2**64 - 1], "u8"),
    "np-bool": np.array([True, False]),
    "np-2d": np.arange(6.0).reshape(2, 3),
    "np-fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "np-transposed-3d": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "np-strided": np.arange(10.0)[::3],
    "np-reversed": np.arange(4.0)[::-1],
    "np-0d": np.array(5.0),
    "np-empty": np.zeros((0, 3)),
    "np-big-endian": np.array([1, 2, 3], ">i4"),
    "np-big-endian-2d": np.arange(4, dtype=">f8").reshape(2, 2),
    "np-datetime64-ns": np.array(["2026-01-02", "NaT"], "M8[ns]"),
    "np-datetime64-25s": np.array([1, 2], "M8[25s]"),
    "np-timedelta64": np.array([1], "m8[ms]"),
    "np-text": np.array(["ab", "c"]),
    "np-bytes": np.array([b"ab", b"c"]),
    "np-complex": np.array([1 + 2j]),
    "np-record": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "np-objects": np.array(["a", None, 3], dtype=object),
    "np-broadcast": np.broadcast_to(np.array([1.0, 2.0]), (3, 2)),
    "np-broadcast-0d": np.broadcast_to(7.0, (4,)),
    "np-broadcast-inner": np.broadcast_to(np.array([[1.0], [2.0]]), (2, 3)),
    "np-long-double": np.array([1.0], np.longdouble),
}
SCALARS = {
    "np-scalar-f8": np.float64(1.5),
    "np-scalar-f4": np.float32(1.5),
    "np-scalar-i8": np.int64(5),
    "np-scalar-i8-large": np.int64(2**60),
    "np-scalar-u1": np.uint8(5),
    "np-scalar-bool": np.bool_(True),
    "np-scalar-str": np.str_("né"),
    "np-scalar-datetime64": np.datetime64("2026-01-02"),
    "np-scalar-complex": np.complex128(1 + 2j),
    "np-dtype": np.dtype("f8"),
}


def pickles():
    for name, value in {**PLAIN, **ARRAYS, **SCALARS}.items():
        for protocol in (2, 3, 4, 5):
            buffers = []
            extra = {"buffer_callback": buffers.append} if protocol == 5 else {}
            data = pickle.dumps(value, protocol, **extra)
            yield {
                "name": f"{name}/{protocol}",
                "repr": repr(value)[:200],
                "pickle": b64(data),
                "buffers": [b64(buffer.raw()) for buffer in buffers],
            }


# --- values ---


def values():
    from distributed.protocol.serialize import Serialize, serialize_and_split
    import msgpack

    more = {
        "bytes-empty": b"",
        "memoryview": memoryview(b"abc"),
        "list-of-arrays": [np.arange(2.0), np.arange(3)],
        "dict-of-arrays": {"a": np.arange(2.0), "b": b"x"},
        "list-of-lists": [[1, 2], [3]],
        "masked-array": np.ma.masked_array([1, 2], mask=[True, False]),
        "matrix": np.matrix([[1, 2], [3, 4]]),
    }
    for name, value in {**PLAIN, **ARRAYS, **SCALARS, **more}.items():
        if name.startswith(("cyclic", "list-1100", "dict-1100")):
            continue
        header, frames = serialize_and_split(value, serializers=("dask", "pickle"), context={})
        header["num-sub-frames"] = len(frames)
        yield {
            "name": name,
            "repr": repr(value)[:200],
            "header": b64(msgpack.dumps(header, use_bin_type=True, default=str)),
            "frames": [b64(frame) for frame in frames],
        }


# --- run_specs ---


def run_specs():
    import dask
    from dask import delayed
    from dask.utils import methodcaller
    from distributed import Client

    add = methodcaller("deno:add")
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        # Tasks that no worker may run: they stay at the scheduler, with their specs.
        held = dict(workers=["nowhere"], pure=False)
        futures = []

        def submit(name, /, *args, **kwargs):
            futures.append(client.submit(*args, key=name, **held, **kwargs))
            return futures[-1]

        a = submit("a", add, 1, 2)
        b = submit("b", add, a, 10)
        submit("two-futures", add, a, b)
        submit("kwargs", add, 1, x=2, name="n")
        submit("kwargs-future", add, 1, x=a)
        submit("list-of-futures", add, [a, b, 3])
        submit("dict-of-futures", add, {"x": a, "y": [b, 1]})
        submit("tuple-and-set", add, (a, 1), {b})
        submit("plain-containers", add, [1, (2, 3)], {"k": {4}})
        submit("bytes-argument", add, b"\x00\x01")
        submit("ref-lookalike", add, {"$ref": "a"}, "a")
        submit("tuple-key", add, 1)
        submit(("x", 1), add, 1)
        submit("uses-tuple-key", add, futures[-1])
        submit("operator-add", __import__("operator").add, a, 1)
        submit("partial", __import__("functools").partial(add, 1, k=2), a)
        submit("lambda", lambda x: x + 1, a)
        submit("numpy-argument", add, np.arange(300.0))
        futures += client.map(add, [1, 2], key=["map-0", "map-1"], **held)
        futures += client.map(add, [a, b], [3, 4], key=["map2-0", "map2-1"], **held)
        futures += client.map(add, [1], y=a, key=["map-kwargs-0"], **held)
        d = delayed(add, pure=False)
        leaf = d(1, dask_key_name="delayed-leaf")
        graph = d([leaf, {"k": leaf}], n=leaf, dask_key_name="delayed-top")
        futures.append(client.compute(graph, workers=["nowhere"], optimize_graph=False))
        futures.append(client.compute(delayed({"a": leaf, "b": 2}, name="delayed-dict"), workers=["nowhere"], optimize_graph=False))

        def collect(dask_scheduler):
            import distributed.protocol.pickle as p

            out = []
            for key, ts in dask_scheduler.tasks.items():
                buffers = []
                data = p.dumps(ts.run_spec, buffer_callback=buffers.append)
                out.append((key, repr(ts.run_spec), data, [bytes(x.raw()) for x in buffers],
                            [dep.key for dep in ts.dependencies]))
            return out

        import time

        wanted = {future.key for future in futures}
        while len(client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))) < len(wanted):
            time.sleep(0.01)
        for key, text, data, buffers, dependencies in sorted(client.run_on_scheduler(collect), key=lambda row: str(row[0])):
            name = key if isinstance(key, str) and key in wanted and "-" in key[:24] else str(key)
            yield {
                "name": name,
                "repr": text[:300],
                "pickle": b64(data),
                "buffers": [b64(buffer) for buffer in buffers],
                "dependencies": sorted(dependencies, key=str),
            }


# --- errors ---


class CustomError(Exception):
    """Of a module that readers do not have; with an initializer of its own."""

    def __init__(self, code, *, detail):
        super().__init__(code)
        self.detail = detail


CustomError.__module__ = "vectors"
sys.modules["vectors"] = types.ModuleType("vectors")
sys.modules["vectors"].CustomError = CustomError


def errors():
    from distributed.core import error_message
    from distributed.core import Status
    from distributed.scheduler import KilledWorker, WorkerState

    def simple():
        raise ValueError("bad value")

    def no_arguments():
        raise RuntimeError

    def key_error():
        {}["missing"]

    def os_error():
        open("/no/such/file")

    def chained():
        try:
            key_error()
        except KeyError as error:
            raise RuntimeError("outer") from error

    def in_handler():
        try:
            key_error()
        except KeyError:
            raise TypeError("while handling")

    def noted():
        error = ValueError("with notes")
        error.add_note("first note")
        error.add_note("second note")
        raise error

    def two_arguments():
        raise ValueError("a", 2)

    def custom():
        raise CustomError(7, detail="x")

    def deep(n=150):
        if n == 0:
            raise RecursionError("deep")
        deep(n - 1)

    def group():
        raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])

    def long():
        raise ValueError("x" * 20_000)

    def lone_surrogate():
        raise ValueError("\ud800")

    def killed():
        worker = WorkerState(
            address="tcp://127.0.0.1:1", pid=1, name="w", nthreads=1, memory_limit=0, local_directory="/",
            nanny=None, server_id="s", status=Status.running,
        )
        raise KilledWorker("x-1", worker, 3)

    for function in [simple, no_arguments, key_error, os_error, chained, in_handler, noted, two_arguments, custom,
                     deep, group, long, lone_surrogate, killed]:
        try:
            function()
        except Exception as error:
            message = error_message(error)
            # `Serialize`d bytes: the inner pickles are what matters.
            yield {
                "name": function.__name__,
                "repr": repr(error)[:200],
                "exception": b64(message["exception"].data),
                "traceback": message["traceback"] and b64(message["traceback"].data),
            }
            if function in (simple, killed):
                yield {
                    "name": f"{function.__name__}-plain",
                    "repr": repr(error)[:200],
                    "exception": b64(pickle.dumps(error.with_traceback(None), 4)),
                    "traceback": None,
                }


if __name__ == "__main__":
    release = distributed.__version__
    if "--release" not in sys.argv:
        write("pickles.json", list(pickles()))
        write("values.json", list(values()))
    write(f"errors-tblib-{importlib.metadata.version('tblib')}.json", list(errors()))
    write(f"run_specs-{release}.json", list(run_specs()))
