import { read } from "node:fs";
import { StrataError } from "../errors.ts";
import { EventKind, Status } from "./abi.ts";
import { check, errorCode, native } from "./library.ts";
import { Struct } from "./struct.ts";

/** An event of the native library, as its listener gets it. */
export type NativeEvent =
  | {
      kind: "token";
      job: number;
      sequence: number;
      token: number;
      position: number;
      value: number;
      timeMs: number;
      /** Why no token could be drawn; `token` is then -1. */
      error: StrataError | undefined;
    }
  | { kind: "done"; job: number; error: StrataError | undefined; timeMs: number }
  | { kind: "progress"; done: number; total: number }
  | { kind: "closed" };

export type Listener = (event: NativeEvent) => void;

const capacity = 256;

/**
 * The way from the library's threads to this one. The library writes a byte into a pipe when events wait; while work is
 * outstanding one asynchronous `read` of that pipe is pending, so an idle process can end. (Chosen over a blocked
 * Worker, which costs a JavaScript thread, and over thread-safe callbacks, whose record in Bun is poor. A pipe's
 * `stream()` holds the process up while idle.)
 */
class EventPump {
  readonly handle: number;
  private readonly pipe: number;
  private readonly events = new Struct("Event", capacity);
  private readonly byte = new Uint8Array(8);
  private readonly count = new Uint32Array(1);
  private readonly listeners = new Map<number, Listener>();
  private outstanding = 0;
  private reading = false;

  constructor() {
    const handle = new Uint32Array(1);
    const pipe = new Int32Array(1);
    check(native().strata_queue_new(handle, pipe));
    this.handle = handle[0] as number;
    this.pipe = pipe[0] as number;
  }

  listen(source: number, listener: Listener): void {
    this.listeners.set(source, listener);
  }

  forget(source: number): void {
    this.listeners.delete(source);
  }

  /** Announces that an event which ends some work is to come: the pump reads until as many have come. */
  expect(): void {
    this.outstanding += 1;
    this.readNext();
  }

  private readNext(): void {
    if (this.reading || this.outstanding === 0) return;
    this.reading = true;
    read(this.pipe, this.byte, 0, this.byte.length, null, (error) => {
      this.reading = false;
      if (error !== null) throw new StrataError("io", `the library's event pipe failed: ${error.message}`);
      this.drain();
      this.readNext();
    });
  }

  private drain(): void {
    do {
      check(native().strata_queue_drain(this.handle, this.events.bytes, capacity, this.count));
      for (let i = 0; i < (this.count[0] as number); i += 1) this.dispatch(i);
    } while (this.count[0] === capacity);
  }

  private dispatch(i: number): void {
    const source = this.events.get("source", i);
    const event = this.decode(i);
    if (event.kind === "done" || event.kind === "closed") this.outstanding -= 1;
    // Models and engines count their handles apart; a loader's events belong to no job, and its key is negative.
    const isLoader = event.kind === "progress" || (event.kind === "done" && event.job === 0);
    this.listeners.get(isLoader ? -source : source)?.(event);
  }

  private decode(i: number): NativeEvent {
    const events = this.events;
    const timeMs = events.get("timeMs", i);
    switch (events.get("kind", i)) {
      case EventKind.token:
        return {
          kind: "token",
          job: events.get("job", i),
          sequence: events.get("sequence", i),
          token: events.get("token", i),
          position: events.get("position", i),
          value: events.get("value", i),
          timeMs,
          error: this.error(i),
        };
      case EventKind.done:
        return { kind: "done", job: events.get("job", i), error: this.error(i), timeMs };
      case EventKind.progress:
        return { kind: "progress", done: events.get("value", i), total: events.get("total", i) };
      default:
        return { kind: "closed" };
    }
  }

  private error(i: number): StrataError | undefined {
    const status = this.events.get("status", i);
    if (status === Status.ok) return undefined;
    const text = new Uint8Array(2048);
    const length = new Uint32Array(1);
    check(native().strata_queue_message(this.handle, this.events.get("message", i), text, text.length, length));
    const sentence = new TextDecoder().decode(text.subarray(0, Math.min(length[0] as number, text.length)));
    return new StrataError(errorCode(status), sentence);
  }
}

let pump: EventPump | undefined;

/** This thread's event pump. */
export function eventPump(): EventPump {
  pump ??= new EventPump();
  return pump;
}

const clock = new Float64Array(1);

/** Milliseconds of the clock that the library stamps its events with. */
export function nowMs(): number {
  check(native().strata_clock(clock));
  return clock[0] as number;
}
