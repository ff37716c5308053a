/** A table with a rule below its head; columns whose cells are all numbers are aligned to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const columns = head.map((title, column) => {
    const cells = rows.map((row) => row[column] ?? '');
    const width = Math.max(title.length, ...cells.map((cell) => cell.length));
    return { width, numeric: cells.every((cell) => /^[\d.×–-]*$/.test(cell)) };
  });
  const line = (cells: readonly string[]) =>
    columns
      .map(({ width, numeric }, i) =>
        numeric ? (cells[i] ?? '').padStart(width) : (cells[i] ?? '').padEnd(width),
      )
      .join('   ')
      .trimEnd();
  const rule = columns.map(({ width }) => '─'.repeat(width)).join('───');
  return [line(head), rule, ...rows.map(line)].join('\n');
}
