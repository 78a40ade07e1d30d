() => {
  // Copies a text, where navigator.clipboard is missing too: on a page that is served without TLS.
  copra.copy = text => {
    const area = Object.assign(document.createElement('textarea'), {value: text});
    document.body.append(area); area.select(); document.execCommand('copy'); area.remove();
  };
  copra.copyTable = id => {
    const rows = [...document.querySelectorAll(`#${id} tr`)].map(r => [...r.children].map(c => c.innerText.trim()).join('\t'));
    copra.copy(rows.join('\n'));
  };
}
