import type { FeaturesFile } from '../../model/types.js';
import { errata, introduction, meaning } from './provenance.js';
import { code, table } from './table.js';

/** The page of a features file: one row a bit. */
export function featuresPage(file: FeaturesFile): string {
  const rows = file.bits.map((bit) => [
    String(bit.bit),
    code(bit.specName),
    meaning(bit) + (bit.negotiable ? '' : ' Not negotiable over vhost-user.'),
    [...bit.requires, ...bit.requiresOther.map((ref) => ref.name)].map(code).join(', '),
    bit.since ?? '',
    bit.ref ?? '',
  ]);
  const reserved = file.reserved.map(({ bit, why }) => `- ${bit}: ${why}\n`);
  return [
    introduction(file),
    table(['Bit', 'Name', 'Meaning', 'Needs', 'Since', 'Section'], rows),
    ...(reserved.length === 0 ? [] : [`## Reserved\n\n${reserved.join('')}`]),
  ]
    .join('\n')
    .concat(errata(file.bits));
}
