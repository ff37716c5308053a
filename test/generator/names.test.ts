import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  camelCase,
  macroName,
  memberName,
  pascalCase,
  snakeCase,
  upperSnakeCase,
  variableName,
} from '../../generator/names.js';

const names = suite('names');

names('are derived from kebab-case', () => {
  assert.is(camelCase('set-mem-table'), 'setMemTable');
  assert.is(pascalCase('set-mem-table'), 'SetMemTable');
  assert.is(snakeCase('set-mem-table'), 'set_mem_table');
  assert.is(upperSnakeCase('max-message-fds'), 'MAX_MESSAGE_FDS');
});

names('keep digits where they stand', () => {
  assert.is(camelCase('version-1'), 'version1');
  assert.is(camelCase('type-2-of-3d'), 'type2Of3d');
  assert.is(pascalCase('u8-list'), 'U8List');
});

names('of one word stay as they are', () => {
  assert.is(camelCase('mq'), 'mq');
  assert.is(pascalCase('mq'), 'Mq');
});

names('that TypeScript keeps get a tail as variables, not as keys', () => {
  assert.is(variableName('in'), 'inField');
  assert.is(variableName('default'), 'defaultField');
  assert.is(camelCase('in'), 'in');
});

names('that generated functions use for their own get a tail too', () => {
  for (const own of ['reader', 'writer', 'value', 'each', 'index'])
    assert.is(variableName(own), `${own}Field`);
});

names('that C or C++ keep get a tail as members', () => {
  assert.is(memberName('class'), 'class_');
  assert.is(memberName('num-queues'), 'num_queues');
});

names('of macros have only what C allows', () => {
  assert.is(macroName('VIRTIO_BLK_F_RO'), 'VIRTIO_BLK_F_RO');
  assert.is(macroName('struct virtq_desc'), 'STRUCT_VIRTQ_DESC');
});

names.run();
