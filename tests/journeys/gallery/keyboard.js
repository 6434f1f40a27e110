// What a person who uses the keyboard alone can reach on a page: `reach.controls()` and `reach.focused()`.
globalThis.reach = (() => {
  const CONTROLS = "a[href], button, input, select, textarea, summary, [tabindex]";
  const numbers = new Map();

  // A group of radio buttons is one stop, whichever of them is ticked.
  function describe(node) {
    if (node.type === "radio") return `radio ${node.name}`;
    // By its id it is still the same once a page has fetched a part of itself again.
    if (node.id) return `${node.localName} #${node.id}`;
    if (!numbers.has(node)) numbers.set(node, numbers.size);
    const text = node.ariaLabel || node.labels?.[0]?.innerText || node.innerText;
    return `${node.localName} ${text.trim().slice(0, 40)} (${numbers.get(node)})`;
  }

  function isStop(node) {
    // A tabindex of -1 belongs to a group that moves its own focus with the arrow keys.
    if (node.disabled || node.type === "hidden" || node.tabIndex < 0) return false;
    return node.checkVisibility({ visibilityProperty: true });
  }

  function isOutlined(node) {
    const style = getComputedStyle(node);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  }

  function isCovered(node) {
    const box = node.getBoundingClientRect();
    if (box.width <= 2) return false;
    const top = document.elementFromPoint(box.x + box.width / 2, box.y + Math.min(box.height, innerHeight) / 2);
    return !top || !(node.contains(top) || top.contains(node) || top.closest("label")?.contains(node));
  }

  return {
    controls: () => [...new Set([...document.querySelectorAll(CONTROLS)].filter(isStop).map(describe))],
    focused() {
      const node = document.activeElement;
      if (!node || node === document.body) return null;
      // The outline of a hidden file input is drawn around its label.
      const outlined = isOutlined(node) || isOutlined(node.parentElement);
      return { name: describe(node), outlined, covered: isCovered(node) };
    },
  };
})();
