import type { Rule } from './rule.js';
import { featuresFiles } from './walk.js';

export const wordsUnique: Rule = {
  code: 'words-unique',
  summary: 'The protocol word and the virtio word have one file each, a device type has one for its part.',
  check({ model }, report) {
    const seen = new Map<string, string>();
    for (const file of featuresFiles(model)) {
      const folder = file.path.slice(0, file.path.lastIndexOf('/') + 1);
      const key = file.word === 'device' ? `device ${folder}` : file.word;
      const other = seen.get(key);
      if (other !== undefined) report(file, 'word', `${other} has the bits of this word already`);
      else seen.set(key, file.path);
    }
  },
};
