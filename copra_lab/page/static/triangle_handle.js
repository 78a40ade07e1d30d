// Run by gr.HTML where the handle stands: writes the weights of B and C into the text box that is named triangle-point,
// tells so by an event of its own, as the box tells only what is typed, and follows the box where the server or an address
// says something else.
const svg = element.querySelector('svg'), {unit, beyond, step, side, left, bottom} = JSON.parse(svg.dataset.geometry);
const hand = svg.querySelector('.hand'), fields = [...element.querySelectorAll('input')];
const box = () => document.querySelector('#triangle-point textarea, #triangle-point input');
const tall = side * Math.sqrt(3) / 2, most = unit + beyond, snap = n => step * Math.round(n / step);
let b = 0, c = 0, said = '', held = false;

// The nearest place that is not too far outside, alternately giving way along the edge from B to C.
const within = (u, v) => {
  u = Math.min(Math.max(u, -beyond), most + beyond);
  v = Math.min(Math.max(v, -beyond), most + beyond);
  const by = u % step || v % step ? 1 : step;
  for (let i = 0; u + v > most; i++) if (v <= -beyond || (i % 2 && u > -beyond)) u -= by; else v -= by;
  return [u, v];
};
const show = () => {
  const weights = [unit - b - c, b, c].map(n => n / unit);
  hand.setAttribute('transform', `translate(${left + side * (b + c / 2) / unit} ${bottom - tall * c / unit})`);
  hand.setAttribute('aria-valuetext', weights.map((w, i) => `${'ABC'[i]} ${w.toFixed(2)}`).join(', '));
  hand.setAttribute('aria-valuenow', Math.round(100 * weights[0]));
  fields.forEach((f, i) => { if (f !== document.activeElement) f.value = weights[i].toFixed(2); });
};
const go = (u, v) => {
  [b, c] = within(u, v);
  show();
  const text = [b, c].map(n => (n / unit).toFixed(3)).join(' '), input = box();
  if (!input || text === said) return;
  input.value = said = text;
  input.dispatchEvent(new Event('input', {bubbles: true}));
  setTimeout(() => trigger('input'));  // once the box has taken it
};
const read = () => {
  const input = box();
  if (held || !input || input.value === said) return;
  said = input.value;
  [b, c] = said.split(' ').map(x => Math.round(unit * x));
  show();
};

const point = e => {
  const at = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const v = unit * (bottom - at.y) / tall, u = unit * (at.x - left) / side - v / 2;
  go(snap(u), snap(v));
};
svg.addEventListener('pointerdown', e => {
  if (e.button || !e.target.closest('.ground, .hand')) return;
  e.preventDefault();
  svg.setPointerCapture(e.pointerId);
  hand.focus({preventScroll: true});
  held = true;
  point(e);
});
svg.addEventListener('pointermove', e => { if (held) point(e); });
for (const over of ['pointerup', 'pointercancel']) svg.addEventListener(over, () => { held = false; });

// Rows of the lattice are shifted by half a step each, so up and down take turns to lean left and right.
hand.addEventListener('keydown', e => {
  const odd = Math.abs(snap(c) / step) % 2, lean = odd ? step : 0;
  const [u, v] = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [-lean, step], ArrowDown: [step - lean, -step]}[e.key] || [];
  if (u === undefined) return;
  e.preventDefault();
  go(snap(b) + u, snap(c) + v);
});

// The other two weights share what is left as they did before.
fields.forEach((field, i) => {
  field.addEventListener('input', () => {
    if (field.value === '' || isNaN(field.value)) return;
    const weights = [unit - b - c, b, c], [j, k] = [0, 1, 2].filter(n => n !== i);
    weights[i] = Math.round(unit * field.value);
    const left = unit - weights[i], sum = weights[j] + weights[k], share = Math.min(weights[j], weights[k]) >= 0 && sum > 0 ? weights[j] / sum : 0.5;
    weights[j] = Math.round(left * share);
    weights[k] = left - weights[j];
    go(weights[1], weights[2]);
  });
  field.addEventListener('blur', () => setTimeout(show));
});

new MutationObserver(read).observe(element.closest('.board') || document.body, {childList: true, subtree: true});
read();
show();
