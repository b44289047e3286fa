/** How `pg` turns a value into the text that it sends; the package ships no types for it. */
declare module 'pg/lib/utils.js' {
  const utils: { prepareValue(value: unknown): unknown };
  export default utils;
}
