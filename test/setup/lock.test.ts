import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { withLock } from "../../lib/setup/lock.mjs";
import { checkout } from "../../lib/setup/paths.mjs";
import { Folder, node, patience_ms } from "./folder.ts";

setDefaultTimeout(patience_ms);

/** Another process that takes the lock, says so, and holds it until its standard input ends. */
function holder(lock: string, childOfIt?: number) {
  const script = `
    import { noteChild, withLock } from ${JSON.stringify(join(checkout, "lib", "setup", "lock.mjs"))};
    await withLock(process.argv[1], async () => {
      if (process.argv[2]) noteChild(Number(process.argv[2]));
      console.log("held");
      for await (const _ of process.stdin);
    });`;
  return Bun.spawn([node, "--input-type=module", "-e", script, lock, String(childOfIt ?? "")], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
  });
}

test("the second waits for the first, says for whom, and goes on", async () => {
  using folder = new Folder();
  const lock = join(folder.path, "lock");
  const first = holder(lock);
  await first.stdout.getReader().read();
  const said: string[] = [];
  let firstHasEnded = false;
  const second = withLock(
    lock,
    async () => firstHasEnded,
    (text) => said.push(text),
  );
  while (said.length === 0) await Bun.sleep(10);
  expect(said).toEqual([`Another set-up is running (process ${first.pid}): waiting for it to end.`]);
  firstHasEnded = true;
  first.stdin.end();
  expect(await second).toBe(true);
  expect(said[1]).toBe("The other set-up has ended: going on.");
  expect(existsSync(lock)).toBe(false);
  expect(await first.exited).toBe(0);
});

test("many at once hold it one after the other", async () => {
  using folder = new Folder();
  const lock = join(folder.path, "lock");
  let inside = 0;
  let most = 0;
  const one = () =>
    withLock(
      lock,
      async () => {
        inside += 1;
        most = Math.max(most, inside);
        await Bun.sleep(5);
        inside -= 1;
      },
      () => {},
    );
  await Promise.all([one(), one(), one(), one()]);
  expect(most).toBe(1);
});

test("the lock of a killed process is taken over without a word", async () => {
  using folder = new Folder();
  const lock = join(folder.path, "lock");
  const first = holder(lock);
  await first.stdout.getReader().read();
  first.kill("SIGKILL");
  await first.exited;
  expect(existsSync(lock)).toBe(true);
  const said: string[] = [];
  const mine = await withLock(
    lock,
    async () => JSON.parse(readFileSync(lock, "utf8")).pid,
    (text) => said.push(text),
  );
  expect(mine).toBe(process.pid);
  expect(said).toEqual([]);
});

test("a program that outlives its killed set-up is waited for", async () => {
  using folder = new Folder();
  const lock = join(folder.path, "lock");
  const program = Bun.spawn([node, "-e", "setTimeout(() => {}, 60_000)"], { stdio: ["ignore", "ignore", "ignore"] });
  const first = holder(lock, program.pid);
  await first.stdout.getReader().read();
  first.kill("SIGKILL");
  await first.exited;
  let ended = false;
  const said: string[] = [];
  const second = withLock(
    lock,
    async () => ended,
    (text) => said.push(text),
  );
  while (said.length === 0) await Bun.sleep(10);
  expect(said[0]).toContain(`an interrupted set-up is still running (process ${program.pid})`);
  ended = true;
  program.kill();
  expect(await second).toBe(true);
});

test.if(process.platform === "linux")(
  "a lock is stale if its process number was given to another process",
  async () => {
    using folder = new Folder();
    const lock = folder.file("lock", JSON.stringify({ pid: 1, started: "999999999999" }));
    expect(await withLock(lock, async () => "taken")).toBe("taken");
  },
);

test("a lock file that was never written to is stale after a while", async () => {
  using folder = new Folder();
  const lock = folder.file("lock", "");
  const long_ago = Date.now() / 1000 - 60;
  utimesSync(lock, long_ago, long_ago);
  expect(await withLock(lock, async () => "taken")).toBe("taken");
});

test("an error in the work frees the lock and is passed on", async () => {
  using folder = new Folder();
  const lock = join(folder.path, "lock");
  const work = withLock(lock, () => Promise.reject(new Error("broken")));
  await expect(work).rejects.toThrow("broken");
  expect(existsSync(lock)).toBe(false);
});
