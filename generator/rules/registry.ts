import { accessorAligned } from './accessor-aligned.js';
import { accessorsPossible } from './accessors-possible.js';
import { annotationsFitType } from './annotations-fit-type.js';
import { bitWithinWidth } from './bit-within-width.js';
import { bitsUnique } from './bits-unique.js';
import { codecPossible } from './codec-possible.js';
import { countHasMax } from './count-has-max.js';
import { counterBeforeList } from './counter-before-list.js';
import { deprecatedAfterSince } from './deprecated-after-since.js';
import { fdRoleKnown } from './fd-role-known.js';
import { fdsFitPayload } from './fds-fit-payload.js';
import { flexibleMemberLastOrParam } from './flexible-member-last-or-param.js';
import { idsDenseOrReserved } from './ids-dense-or-reserved.js';
import { idsUnique } from './ids-unique.js';
import { namesUnique } from './names-unique.js';
import { nestedStructFixed } from './nested-struct-fixed.js';
import { offsetsMatch } from './offsets-match.js';
import { partsDisjoint } from './parts-disjoint.js';
import { payloadIsRecord } from './payload-is-record.js';
import { referencesResolve } from './references-resolve.js';
import { requiresAcyclic } from './requires-acyclic.js';
import { sinceNotAfterRevision } from './since-not-after-revision.js';
import { sizeMultipleOfAlign } from './size-multiple-of-align.js';
import { sizesMatch } from './sizes-match.js';
import { specNamesAgree } from './spec-names-agree.js';
import { wordsUnique } from './words-unique.js';
import type { Rule } from './rule.js';

/** Every rule, in the order in which a reader of the list understands them. */
export const rules: readonly Rule[] = [
  referencesResolve,
  idsUnique,
  idsDenseOrReserved,
  bitsUnique,
  bitWithinWidth,
  namesUnique,
  specNamesAgree,
  wordsUnique,
  requiresAcyclic,
  sinceNotAfterRevision,
  deprecatedAfterSince,
  fdRoleKnown,
  fdsFitPayload,
  payloadIsRecord,
  offsetsMatch,
  sizesMatch,
  sizeMultipleOfAlign,
  accessorAligned,
  accessorsPossible,
  codecPossible,
  nestedStructFixed,
  flexibleMemberLastOrParam,
  counterBeforeList,
  countHasMax,
  annotationsFitType,
  partsDisjoint,
];
