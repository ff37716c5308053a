/** Every spelling that generated code uses, derived from the schema's kebab-case names. Nothing else changes case. */

/** Words that may not name a variable in a module, with the names that generated functions use for their own. */
const TAKEN = new Set(
  (
    'arguments await break case catch class const continue debugger default delete do else enum eval export extends ' +
    'false finally for function if implements import in instanceof interface let new null package private protected ' +
    'public return static super switch this throw true try typeof var void while with yield ' +
    'reader writer value each index'
  ).split(' '),
);

/** `set-mem-table` -> `setMemTable`. */
export function camelCase(kebab: string): string {
  return kebab.replace(/-+([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/** `set-mem-table` -> `SetMemTable`. */
export function pascalCase(kebab: string): string {
  const camel = camelCase(kebab);
  return camel.charAt(0).toUpperCase() + camel.slice(1);
}

/** `max-message-fds` -> `MAX_MESSAGE_FDS`. */
export function upperSnakeCase(kebab: string): string {
  return snakeCase(kebab).toUpperCase();
}

/** `max-message-fds` -> `max_message_fds`. */
export function snakeCase(kebab: string): string {
  return kebab.replaceAll('-', '_').replaceAll('/', '_');
}

/** A local variable or parameter for a field; a word that is taken gets a tail. */
export function variableName(kebab: string): string {
  const camel = camelCase(kebab);
  return TAKEN.has(camel) ? `${camel}Field` : camel;
}

/** A feature set's plural: `protocol-feature` -> `ProtocolFeatures`. */
export function plural(name: string): string {
  return `${name}s`;
}

/** A macro's name from a specification's spelling: anything C does not allow becomes `_`. */
export function macroName(text: string): string {
  return text.replace(/[^A-Za-z0-9]+/g, '_').toUpperCase();
}

/** Words that C or C++ keep for themselves, as far as a schema may use them. */
const C_KEYWORDS = new Set(
  (
    'and auto bool case catch char class const continue default delete do double else enum explicit extern false float ' +
    'for friend goto if inline int long mutable namespace new not operator or private protected public register return ' +
    'short signed sizeof static struct switch template this throw true try typedef union unsigned using virtual void ' +
    'volatile while xor'
  ).split(' '),
);

/** A member of a C struct; a keyword gets a tail. */
export function memberName(kebab: string): string {
  const snake = snakeCase(kebab);
  return C_KEYWORDS.has(snake) ? `${snake}_` : snake;
}

/** What generated/index.ts exports of the wire layer beside everything that is generated. */
export const WIRE_EXPORTS: readonly string[] = (
  'Codec FdRule FeatureBit FeatureTable Gate ReplyCondition ReplyRule RequestRow WireError WireReader WireWriter ' +
  'closeFeatures decodeExactly encodeToBytes featureNames u64'
).split(' ');

/** Members that a generated object with accessors, or with a codec, has for itself. */
export const OBJECT_MEMBERS: readonly string[] =
  'size align offset layout minSize maxSize decode encode'.split(' ');
