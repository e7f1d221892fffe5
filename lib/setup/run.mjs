// @ts-check
// The entry of package.json's scripts: `node lib/setup/run.mjs demo`. It is read by old versions of Node too, so
// that they can say that they are too old, and imports nothing before that.

const lowest = 20;

async function main() {
  const version = process.versions.node;
  if (Number(version.split(".")[0]) < lowest) {
    fail(
      `Strata needs Node ${lowest} or newer and this is Node ${version}: install a newer one, from your system or nodejs.org.`,
    );
    return;
  }
  const { tasks } = await import("./tasks.mjs");
  const { SetupError } = await import("./errors.mjs");
  const { ProgramError, endLike } = await import("../cli/passthrough.mjs");
  const [name = "", ...args] = process.argv.slice(2);
  const task = tasks[name];
  if (!task) {
    fail(`There is no "${name}": use one of ${Object.keys(tasks).join(", ")}.`, 2);
    return;
  }
  for (const [signal, code] of /** @type {const} */ ([
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ])) {
    process.on(signal, () => process.exit(code));
  }
  try {
    endLike(await task(args));
  } catch (error) {
    if (!(error instanceof SetupError || error instanceof ProgramError)) throw error;
    fail(error.message);
  }
}

/**
 * @param {string} message
 * @param {number} [code]
 */
function fail(message, code = 1) {
  process.stderr.write(`${message}\n`);
  process.exitCode = code;
}

main();
