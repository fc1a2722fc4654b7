/**
 * Functions that the tests of the client run on workers.
 *
 * @module
 */

export const area = (width: number, height: number): number => width * height;
export const divmod = (a: number, b: number): [number, number] => [Math.trunc(a / b), a % b];
