// @ts-check
/**
 * Progress of long steps, for people: one line that rewrites itself on a terminal, and in a log a line
 * at the start, one each ten seconds, and one at the end.
 *
 * @typedef {object} Output
 * @property {(text: string) => unknown} write
 * @property {boolean} [isTTY]
 * @property {number} [columns]
 */

const logInterval_ms = 10_000;
const terminalInterval_ms = 500;

export class Progress {
  /**
   * @param {number} total how many steps there will be
   * @param {Output} [output]
   */
  constructor(total, output = process.stderr) {
    this.total = total;
    this.output = output;
    this.started = 0;
  }

  /**
   * Runs one step and shows it.
   *
   * @template T
   * @param {string} title
   * @param {(step: Step) => Promise<T>} work
   * @returns {Promise<T>}
   */
  async step(title, work) {
    this.started += 1;
    const step = new Step(`[${this.started}/${this.total}] ${title}`, this.output);
    try {
      const result = await work(step);
      step.end("done");
      return result;
    } catch (error) {
      step.end("failed");
      throw error;
    }
  }
}

export class Step {
  /**
   * @param {string} title
   * @param {Output} output
   */
  constructor(title, output) {
    this.title = title;
    this.output = output;
    this.start_ms = Date.now();
    /** How far the step is, asked for each time that a line is shown. @type {() => string} */
    this.howFar = () => "";
    this.live = output.isTTY === true && process.env["TERM"] !== "dumb";
    if (this.live) this.show();
    else output.write(`${title} ...\n`);
    this.timer = setInterval(() => this.show(), this.live ? terminalInterval_ms : logInterval_ms);
    this.timer.unref();
  }

  show() {
    const far = this.howFar();
    const line = `${this.title}: ${far ? `${far}, ` : ""}${seconds(Date.now() - this.start_ms)}`;
    // A line as wide as the terminal would wrap, and then could not be rewritten.
    if (this.live) this.output.write(`\r\x1b[2K${line.slice(0, (this.output.columns ?? 80) - 1)}`);
    else this.output.write(`${line}\n`);
  }

  /** @param {string} word how it ended */
  end(word) {
    clearInterval(this.timer);
    const line = `${this.title}: ${word}, ${seconds(Date.now() - this.start_ms)}\n`;
    this.output.write(this.live ? `\r\x1b[2K${line}` : line);
  }
}

/** @param {number} ms */
export function seconds(ms) {
  const whole = Math.round(ms / 1000);
  if (whole < 10) return `${(ms / 1000).toFixed(1)} s`;
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** @param {number} bytes */
export const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
