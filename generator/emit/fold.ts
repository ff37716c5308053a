/** Folds a paragraph at spaces; a `*` + `/` in it cannot end the comment. */
export function fold(text: string, width: number): string {
  const lines: string[] = [];
  let line = '';
  for (const word of text.replaceAll('*/', '*\\/').replaceAll('/*', '/ *').split(/\s+/).filter(Boolean)) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  lines.push(line);
  return lines.join('\n');
}
