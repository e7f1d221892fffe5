/** Numbers and tables for people to read. */

/** Bytes for a person: "8.07 MB". */
export function formatBytes(bytes: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = bytes < 1000 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), units.length - 1);
  const scaled = bytes / 1000 ** power;
  return `${power === 0 ? scaled : formatNumber(scaled)} ${units[power]}`;
}

/** A number for a person: three digits, or all before the point. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return "-";
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** A count with its noun: "1 token", "2 tokens". */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Rows as lines of text, each column as wide as its widest cell; columns named in `right` end flush. */
export function formatTable(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, column) => {
    return rows.reduce((width, row) => Math.max(width, Bun.stringWidth(row[column] ?? "")), 0);
  });
  const line = (row: readonly string[]): string => {
    const cells = row.map((cell, column) => {
      const space = " ".repeat((widths[column] ?? 0) - Bun.stringWidth(cell));
      return right.includes(column) ? space + cell : cell + space;
    });
    return cells.join("  ").trimEnd();
  };
  return rows.map((row) => `${line(row)}\n`).join("");
}
