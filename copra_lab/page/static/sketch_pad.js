const canvas = element.querySelector('canvas'), ink = canvas.getContext('2d'), pen = element.querySelector('.pen'), hint = element.querySelector('.paper p');
const side = canvas.width, strokes = [], spot = {x: side / 2, y: side / 2};
let now = null;
const paint = () => {
  ink.fillStyle = '#fff'; ink.fillRect(0, 0, side, side); ink.lineCap = ink.lineJoin = 'round';
  for (const s of strokes) {
    ink.strokeStyle = s.colour; ink.lineWidth = s.width; ink.beginPath();
    const [x, y] = s.points[0];
    ink.moveTo(x, y); ink.lineTo(x + .01, y);  // a dot, where the pen did not move: not every browser draws a line without length
    s.points.forEach(p => ink.lineTo(...p)); ink.stroke();
  }
  hint.hidden = strokes.length > 0;
};
const send = () => { paint(); props.value = strokes.length ? canvas.toDataURL('image/png') : ''; };
const chosen = name => element.querySelector('input[name=' + name + ']:checked').value;
const begin = at => { strokes.push(now = {colour: chosen('sketch-colour'), width: +chosen('sketch-width'), points: [at]}); paint(); };
const end = () => { if (now) { now = null; send(); } };
const place = e => { const box = canvas.getBoundingClientRect(); return [(e.clientX - box.left) * side / box.width, (e.clientY - box.top) * side / box.height]; };
canvas.addEventListener('pointerdown', e => { if (e.button === 0 && !now) { canvas.setPointerCapture(e.pointerId); begin(place(e)); } });
canvas.addEventListener('pointermove', e => { if (now && canvas.hasPointerCapture(e.pointerId)) { e.getCoalescedEvents().concat(e).forEach(c => now.points.push(place(c))); paint(); } });
canvas.addEventListener('pointerup', end); canvas.addEventListener('pointercancel', end);
const steps = {ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8]};
const show = () => { pen.hidden = false; pen.style.left = 100 * spot.x / side + '%'; pen.style.top = 100 * spot.y / side + '%'; pen.classList.toggle('down', !!now); };
canvas.addEventListener('keydown', e => {
  if (e.key === ' ') { now ? end() : begin([spot.x, spot.y]); }
  else if (steps[e.key]) {
    const [dx, dy] = steps[e.key], inside = v => Math.min(side, Math.max(0, v));
    spot.x = inside(spot.x + dx); spot.y = inside(spot.y + dy);
    if (now) { now.points.push([spot.x, spot.y]); paint(); }
  } else return;
  e.preventDefault(); show();
});
canvas.addEventListener('blur', () => { pen.hidden = true; end(); });
element.querySelector('[data-do=undo]').addEventListener('click', () => { strokes.pop(); send(); });
element.querySelector('[data-do=clear]').addEventListener('click', () => { strokes.length = 0; send(); });
paint();
