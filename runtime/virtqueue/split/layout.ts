/** Constants of the split ring. */
export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;
