/** Memory that stays flat: of what is remembered, the oldest goes. */

/**
 * Maps and sets keep the order in which things were put in.
 * @template K @param {{size: number, keys: () => Iterable<K>, delete: (key: K) => boolean}} things @param {number} most
 */
export function cap(things, most) {
  for (const key of things.keys()) {
    if (things.size <= most) return;
    things.delete(key);
  }
}
