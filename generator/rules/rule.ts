import type { Subject } from '../model/subject.js';

/** Complains about a part of the model, at its value for `key`, or at the part itself. */
export type Report = (item: object, key: string | null, message: string) => void;

/** One thing that must hold for the meaning of a schema. */
export interface Rule {
  /** As printed in diagnostics; the rule's file and its bad example are named alike. */
  readonly code: string;
  /** What must hold, in a sentence. */
  readonly summary: string;
  check(subject: Subject, report: Report): void;
}
