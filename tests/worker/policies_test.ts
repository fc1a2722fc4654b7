/**
 * Permissions, timeouts and cancelling of tasks, end to end: a TypeScript and a Python client, the scheduler, a worker.
 */
import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { connect, type Node, t } from "../../mod.ts";
import { TaskError, WorkerLostError } from "../../protocol/errors.ts";
import { startWorker, type WorkerHandle, type WorkerOptions } from "../../worker/mod.ts";
import { errorsInLog, sharedScheduler } from "../support/scheduler.ts";
import { pythonClient } from "./python_client.ts";
